"""LoRA Composite: every adapter predicts on its own, and the predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compose.gate import Gate
from compose.guidance import Sides
from compose.method import CompositionMethod
from compose.run import Pass, Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Composite(CompositionMethod):
    """Each adapter alone guides the picture at every step; the mean of their predictions is
    followed.

    Zhong et al. 2024, section 3.3, with all weights one. The K passes are rows of one call, and
    cost K times a plain step. To first order this is a merge at weights 1 / K, so every adapter is
    diluted as adapters are added.
    """

    name: ClassVar[str] = "composite"
    title: ClassVar[str] = "LoRA Composite"
    source: ClassVar[str] = "https://arxiv.org/abs/2402.16843"
    minimum: ClassVar[int] = 1

    def passes(self, run: Run, step: Step) -> list[Pass]:
        """A pair of passes for each adapter."""
        del step
        count = len(run.adapters)
        pairs = []
        for k, weight in enumerate(run.weights):
            alone = [float(j == k) for j in range(count)]
            pairs += run.guided_passes(f"/{k}", Gate.one(k, count, weight), alone)
        return pairs

    def sides(self, run: Run, step: Step, predictions: Mapping[str, Tensor]) -> Sides:
        """Mean over adapters of either side; guidance comes after."""
        del step

        def mean(side: str) -> Tensor:
            return torch.stack([predictions[f"{side}/{k}"] for k in range(len(run.adapters))]).mean(
                dim=0
            )

        return Sides(mean("cond"), mean("uncond") if run.guided else None)
