"""Merge: all adapters at once, added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from compose.errors import RequestError
from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Merge(GatedMethod):
    """Every adapter acts at every step, place and layer; their changes are added up.

    The same as merging the weights, or as PEFT's `set_adapters`. Adapters that change the same
    thing average or fight: this is the baseline that every other method is measured against.
    Budgets "mean" and "total" keep many adapters from overcooking the picture, at the price of
    weaker ones.
    """

    name: ClassVar[str] = "merge"
    title: ClassVar[str] = "Merge"
    source: ClassVar[str] = "https://arxiv.org/abs/2402.16843"

    budget: str = param(
        "sum",
        "sum: weights as given; mean: divided by their number; total: scaled so that they add up"
        " to `total`",
        choices=("sum", "mean", "total"),
    )
    total: float = param(1.0, "what the weights add up to under budget=total", low=0.0, high=4.0)

    def check(self, run: Run) -> None:
        """Refuse a total of weights that cannot be scaled."""
        super().check(run)
        if (
            self.budget == "total"
            and run.weights
            and (min(run.weights) < 0 or sum(run.weights) == 0)
        ):
            raise RequestError(
                f"budget=total cannot scale the weights {', '.join(f'{w:g}' for w in run.weights)};"
                " expected none below 0 and one above, or use budget=sum"
            )

    def shares(self, run: Run, step: Step) -> Sequence[float]:
        """The same share for every adapter."""
        count = len(run.adapters)
        if not count or self.budget == "sum":
            return [1.0] * count
        return [1.0 / count if self.budget == "mean" else self.total / sum(run.weights)] * count

    def gate(self, run: Run, step: Step) -> Gate:
        """All adapters at their share of the weight."""
        return Gate.all(run.scaled(self.shares(run, step)))
