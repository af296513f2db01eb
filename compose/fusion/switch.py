"""LoRA Switch: one adapter at a time, by turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Switch(GatedMethod):
    """At every step a single adapter acts; after `every` steps the next one takes its turn.

    Zhong et al. 2024, section 3.2. Adapters never meet inside a step, so they cannot fight there,
    but each has only its share of the steps. The first adapter sets the layout, so its place in the
    order matters: a character goes first.
    """

    name: ClassVar[str] = "switch"
    title: ClassVar[str] = "LoRA Switch"
    source: ClassVar[str] = "https://arxiv.org/abs/2402.16843"
    order_free: ClassVar[bool] = False
    minimum: ClassVar[int] = 1
    chooses: ClassVar[str] = "time"

    every: int = param(
        5, "steps that an adapter acts before the next one takes over", low=1, high=1000
    )
    convention: str = param(
        "paper",
        "paper: every turn has the same length; reference: the first turn is one step longer, as"
        " in the released code",
        choices=("paper", "reference"),
    )

    def turn(self, step: Step, count: int) -> int:
        """Which of `count` adapters acts at a step."""
        index = step.index if self.convention == "paper" else max(step.index - 1, 0)
        return (index // self.every) % count

    def shares(self, run: Run, step: Step) -> Sequence[float]:
        """One for the adapter whose turn it is."""
        turn = self.turn(step, len(run.adapters))
        return [float(k == turn) for k in range(len(run.adapters))]

    def gate(self, run: Run, step: Step) -> Gate:
        """The adapter whose turn it is, alone."""
        return Gate.all(run.scaled(self.shares(run, step)))
