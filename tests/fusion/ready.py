"""A tiny family with adapters in it, and what its gated layers really add."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.composer import Composer
from compose.layers import GatedLoraLayer
from compose.method import GatedMethod
from compose.run import Run
from compose.types import Site, Size
from tests import engine
from tests.families import TinyFamily

WEIGHTS = (1.0, -0.5, 0.8)


class Ready:
    """A family with three adapters in it."""

    def __init__(self, family: TinyFamily, folder: Path) -> None:
        self.family = family
        self.paths = family.files(folder)
        self.composer: Composer = engine.composer(pipe=family.build())

    def run(self, method: GatedMethod, weights: Sequence[float] = WEIGHTS, **more: Any) -> Run:
        """A run that has been prepared, its adapters installed."""
        asked = self.family.request(self.paths[: len(weights)], weights, method, **more)
        prepared = self.composer.prepare(asked)
        self.composer._install(prepared.adapters)
        run = self.composer._run(prepared.request, prepared.adapters, asked.seeds)
        run.state = method.prepare(run)
        return run

    @property
    def layers(self) -> list[GatedLoraLayer]:
        """The gated layers of the denoiser."""
        assert self.composer._installation is not None
        denoiser = self.composer.family.denoiser_name
        found = self.composer._installation.layers.values()
        return [layer for layer in found if layer.site.component == denoiser]

    def changes(self, run: Run, method: GatedMethod) -> list[tuple[Site, Tensor, Tensor]]:
        """Of every gated layer in one call: its site, what it added in the last row, and what each
        adapter alone would add there at weight 1, [n, d] and [K, n, d].
        """
        found: list[tuple[Site, Tensor, Tensor]] = []

        def hook(layer: GatedLoraLayer, args: tuple[Tensor], out: Tensor) -> None:
            x, base = args[0], layer.base
            each = [_alone(layer, x, k) for k in range(len(run.adapters))]
            change = [_tokens(t) for t in (out - base(x), *each)]
            found.append((layer.site, change[0], torch.stack(change[1:])))

        hooks = [layer.register_forward_hook(hook) for layer in self.layers]
        step = run.schedule.step(0)
        family = self.composer.family
        height, width = run.regions.shape[-2:]
        factor = family.pipe.vae_scale_factor
        size = Size(width * factor, height * factor)
        noise = family.latents(size, run.schedule, [torch.Generator().manual_seed(3)])
        with torch.no_grad():
            run.predict(noise, step, method.passes(run, step))
        for handle in hooks:
            handle.remove()
        return found


def _alone(layer: GatedLoraLayer, x: Tensor, k: int) -> Tensor:
    """What adapter `k` adds at weight 1."""
    mine = layer.lora_index == k
    down, up = layer.lora_down[mine], layer.lora_up[:, mine]
    base: Any = layer.base
    if isinstance(base, nn.Conv2d):
        low = functional.conv2d(x, down, None, base.stride, base.padding)
        return functional.conv2d(low, up[..., None, None])
    return functional.linear(functional.linear(x, down), up)


def _tokens(x: Tensor) -> Tensor:
    """The last row as [n, d]."""
    x = x[-1]
    return x.flatten(1).T if x.ndim == 3 else x if x.ndim == 2 else x[None]


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
