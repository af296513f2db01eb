"""TARA: every adapter on the words that call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Tara(GatedMethod):
    """TARA"""

    name: ClassVar[str] = "tara"
    title: ClassVar[str] = "TARA"
    source: ClassVar[str] = "https://arxiv.org/abs/2508.08812"
    minimum: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"prompt", "spans"})
    chooses: ClassVar[str] = "words"

    scope: str = param("reference", "x", choices=("reference", "strict"))
    words: str = param("trigger", "x", choices=("trigger", "class"))
    text: str = param("own", "x", choices=("own", "not_others"))

    def prepare(self, run: Run) -> Tensor:
        """Text gate [images, T, K]."""
        count = len(run.adapters)
        length = run.text([1.0] * count).cond.embeds.shape[1]
        own = torch.zeros(run.images, length, count)
        for k in range(count):
            for row, at in enumerate(run.positions(k, class_word=self.words == "class")):
                own[row, list(at), k] = 1
        if self.text == "own":
            return own
        taken = own.sum(dim=-1, keepdim=True)  # positions of anybody
        return torch.where(taken > 0, own, 1.0)

    def gate(self, run: Run, step: Step) -> Gate:
        weight = torch.tensor([run.weights]).expand(run.images, -1)
        image = torch.zeros(*weight.shape, 1, 1) if self.scope == "strict" else None
        return Gate(weight, text=run.state, image=image)
