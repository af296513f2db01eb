"""Regional: every adapter where its region is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.regions import OVERLAPS, feathered, shared
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Regional(GatedMethod):
    """Each adapter acts on the image tokens inside its region, and nowhere else."""

    name: ClassVar[str] = "regional"
    title: ClassVar[str] = "Regional"
    source: ClassVar[str] = "https://github.com/kohya-ss/sd-scripts"
    minimum: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"regions"})
    chooses: ClassVar[str] = "place"

    feather: float = param(0.0, "soft", low=0.0, high=0.5)
    overlap: str = param("average", "overlap", choices=tuple(OVERLAPS))
    outside: str = param("base", "uncovered", choices=("base", "average"))

    def prepare(self, run: Run) -> Tensor:
        """The gate over the picture, [K, H, W]."""
        assert run.regions is not None
        masks = feathered(run.regions, self.feather)
        placed = torch.tensor(run.placed)
        own = shared(masks[placed], self.overlap)
        if self.outside == "average":
            own = own + (1 - own.sum(dim=0)).clamp(min=0) / len(own)
        return masks.masked_scatter(placed[:, None, None], own)

    def gate(self, run: Run, step: Step) -> Gate:
        return Gate(torch.tensor([run.weights]), image=run.state[None])
