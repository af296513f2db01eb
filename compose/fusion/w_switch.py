"""W-Switch: LoRA Switch with turns as long as the prompt makes each adapter important."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from compose.adapters.triggers import has_trigger, without_triggers
from compose.errors import RequestError
from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class WSwitch(GatedMethod):
    """Adapters act by turns, the longer the more their trigger words change what the prompt means.

    After Tsoumplekas et al. 2026 (arXiv 2606.03792): an adapter's importance is how far the
    encoded prompt moves when its trigger words are taken out. Ours is the distance 1 - cos between
    the token embeddings of the two prompts, averaged over the text positions, so that it works for
    every text encoder; turns share a cycle of `every` steps an adapter in that proportion, each
    with at least one step. As in the paper, the last `final` steps belong to the character (the
    first one there is), which keeps its identity.
    """

    name: ClassVar[str] = "w_switch"
    title: ClassVar[str] = "W-Switch"
    source: ClassVar[str] = "https://arxiv.org/abs/2606.03792"
    order_free: ClassVar[bool] = False
    minimum: ClassVar[int] = 1
    chooses: ClassVar[str] = "time"
    needs: ClassVar[frozenset[str]] = frozenset({"prompt"})

    every: int = param(5, "steps of an average turn", low=1, high=1000)
    final: int = param(
        5, "steps at the end that the first character has for itself; 0 for none", low=0, high=1000
    )

    def check(self, run: Run) -> None:
        """Refuse adapters whose importance the prompt cannot tell."""
        super().check(run)
        for adapter in run.adapters:
            if not all(any(has_trigger(p, t) for t in adapter.triggers) for p in run.prompts):
                known = " or ".join(repr(t) for t in adapter.triggers[:4]) or "none that is known"
                raise RequestError(
                    f"method {self.name} needs the trigger words of adapter {adapter.name} in the"
                    f" prompt; its triggers: {known}; add one, or use method switch"
                )

    def prepare(self, run: Run) -> tuple[int, ...]:
        """Which adapter acts, for every step."""
        total = len(run.schedule.timesteps)
        return turns(influence(run), total, self.every, self.final, character(run))

    def shares(self, run: Run, step: Step) -> Sequence[float]:
        """One for the adapter whose turn it is."""
        return [float(k == run.state[step.index]) for k in range(len(run.adapters))]

    def gate(self, run: Run, step: Step) -> Gate:
        """The adapter whose turn it is, alone."""
        return Gate.all(run.scaled(self.shares(run, step)))


def character(run: Run) -> int | None:
    """The first adapter that shows a character; None when there is none."""
    found = (k for k, adapter in enumerate(run.adapters) if adapter.category == "character")
    return next(found, None)


def influence(run: Run) -> Tensor:
    """How far the prompt moves without the trigger words of each adapter, [K] in [0, 2].

    The mean over the images of a run; every adapter's text-encoder part is on.
    """

    def meaning(prompts: Sequence[str]) -> Tensor:
        return run.encode(prompts, run.text_weights).embeds.double().mean(dim=1)  # [images, D]

    whole = meaning(run.prompts)
    distances = [
        1 - functional.cosine_similarity(whole, meaning(bare), dim=-1).mean()
        for adapter in run.adapters
        for bare in [[without_triggers(p, adapter.triggers) for p in run.prompts]]
    ]
    return torch.stack(distances).clamp(min=0)


def turns(
    importance: Tensor, total: int, every: int, final: int, last: int | None
) -> tuple[int, ...]:
    """Which adapter acts at each step.

    Args:
        importance: [K], none below 0; all zero counts as all equal.
        total: steps of the run.
        every: steps of an average turn; a run too short for a whole cycle gets a shorter one.
        final: steps at the end for `last`; at most what leaves one step for each of the others.
        last: index of an adapter; None for no such end.
    """
    count = len(importance)
    end = 0 if last is None else min(final, max(total - count, 0))
    cycle = max(min(every * count, total - end), count)
    weight = importance if importance.sum() > 0 else torch.ones_like(importance)
    ideal = (weight / weight.sum()).double() * (cycle - count)
    lengths = 1 + ideal.floor()
    rest = int(cycle - lengths.sum())
    order = torch.sort(ideal - ideal.floor(), descending=True, stable=True).indices
    lengths[order[:rest]] += 1  # largest remainders
    once = torch.repeat_interleave(torch.arange(count), lengths.long()).tolist()
    cycled = [once[i % cycle] for i in range(total - end)]
    return (*cycled, *([last] * end if last is not None else []))
