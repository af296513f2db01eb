"""A run of a tiny model that stands at its second step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compose.fusion.merge import Merge
from compose.models.family import Family
from compose.passes import Pass
from compose.run import Run
from compose.types import Step
from tests import engine
from tests.families import FAMILIES

ALL = sorted(FAMILIES)


@dataclass(frozen=True)
class Standing:
    """A run, its latents [images, C, H, W], its step, and its passes."""

    run: Run
    latents: Tensor
    step: Step
    passes: list[Pass]

    @property
    def family(self) -> Family:
        return self.run.family

    @torch.no_grad()
    def predict(self, **more: Any) -> dict[str, Tensor]:
        """Predictions of all passes; arguments change the pass "cond"."""
        return self.run.predict(self.latents, self.step, self.under(**more))

    def under(self, **more: Any) -> list[Pass]:
        """The passes, with other fields in the pass "cond"."""
        return [replace(p, **more) if p.name == "cond" else p for p in self.passes]


def standing(
    name: str,
    *,
    images: int = 2,
    dtype: torch.dtype = torch.float64,
    pipe: Any = None,
    paths: Any = (),
    device: str = "cpu",
    **options: Any,
) -> Standing:
    """A guided run of a tiny family: passes "uncond" and "cond"."""
    family = FAMILIES[name]
    composer = engine.composer(dtype, pipe=pipe or family.build(), **options)
    composer.family.pipe.to(device)
    asked = family.request(paths, [1.0] * len(paths), Merge(), seeds=tuple(range(images)))
    prepared = composer.prepare(asked)
    composer._install(prepared.adapters)
    run = composer._run(prepared.request, prepared.adapters, asked.seeds)
    with torch.no_grad():
        generators = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
        latents = composer.family.latents(engine.SIZE, run.schedule, generators)
        step = run.schedule.step(1)
        return Standing(run, latents, step, Merge().passes(run, step))
