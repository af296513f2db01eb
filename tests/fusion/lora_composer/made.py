"""A tiny family with three adapters, for LoRA-Composer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose.attention.losses import missing, straying, unfilled
from compose.attention.maps import smoothed
from compose.composer import Composer
from compose.fusion.lora_composer import LoraComposer
from compose.fusion.region_maps import Listening
from compose.fusion.region_texts import RegionTexts
from compose.regions import Box, Region
from compose.run import Run
from tests import engine
from tests.families import FAMILIES, TinyFamily

SERVED = ("sd15", "sdxl")
LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
HALVES: Mapping[str, Region] = {"a0": LEFT, "a1": RIGHT}
PLAIN = {"rate": 0.0, "restart": False, "isolate": False}
"""Texts for regions, and nothing else."""


@dataclass(frozen=True)
class Made:
    """A family with three adapters, and a composer over it."""

    family: TinyFamily
    paths: list[Path]
    composer: Composer

    def asked(self, method: RegionTexts, weights: Any = (1.0, 0.5, 0.8), **more: Any) -> Any:
        regions = more.pop("regions", HALVES)
        paths = self.paths[: len(weights)]
        return self.family.request(paths, weights, method, regions=regions, **more)

    def latents(self, method: RegionTexts, weights: Any = (1.0, 0.5, 0.8), **more: Any) -> Tensor:
        return engine.latents(self.composer, self.asked(method, weights, **more))

    @torch.no_grad()
    def begun(
        self, method: RegionTexts, weights: Any = (1.0, 0.5, 0.8), **more: Any
    ) -> tuple[Run, Tensor]:
        """A run that was prepared, and its noise."""
        asked = self.asked(method, weights, **more)
        prepared = self.composer.prepare(asked)
        self.composer._install(prepared.adapters)
        run = self.composer._run(prepared.request, prepared.adapters, asked.seeds)
        run.state = method.prepare(run)
        sources = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
        return run, self.composer.family.latents(asked.size, run.schedule, sources)


def made(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Made:
    family = FAMILIES[name]
    paths = family.files(folder)
    return Made(family, paths, engine.composer(dtype, pipe=family.build()))


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


def by_hand(method: LoraComposer, heard: Listening, boxes: Tensor) -> Tensor:
    """The losses, word by word."""
    total = torch.zeros(heard.inward.shape[0], dtype=torch.float64)
    for k, maps in enumerate(heard.words):
        box = boxes[k : k + 1]
        for w in range(maps.shape[1]):
            one = smoothed(maps[:, w : w + 1], method.blur)
            total += method.enhance * missing(one, box, top=method.top, spread=method.spread)[:, 0]
            total += method.fill * unfilled(one, box)[:, 0]
        total += method.restrict * straying(heard.inward, box, top=method.top)[:, 0]
    return total
