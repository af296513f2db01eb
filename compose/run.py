"""One run of the denoising loop, as a composition method sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from compose.adapters.adapter import AdapterSet
from compose.adapters.triggers import called_at
from compose.gate import Gate
from compose.slot import GateSlot
from compose.types import Conditioning, Step, TextOptions

if TYPE_CHECKING:
    from compose.models.family import Family, Schedule


@dataclass(frozen=True)
class Pass:
    """One way of asking the denoiser: a conditioning under a gate. All passes of a step are rows of
    one batch.

    Attributes:
        name: key of the prediction that comes back.
        conditioning: one row for every image.
        gate: one row, or one for every image.
    """

    name: str
    conditioning: Conditioning
    gate: Gate


class Piece(NamedTuple):
    """Images `start` to `stop` (exclusive) of a pass: rows of one call."""

    of: Pass
    start: int
    stop: int


class Guided(NamedTuple):
    """Conditioning of the prompt and of the negative prompt (None without guidance)."""

    cond: Conditioning
    uncond: Conditioning | None


@dataclass
class Calls:
    """What a run cost.

    Attributes:
        forwards: denoiser calls.
        rows: samples that ran the whole denoiser.
        cached_rows: samples that reused deep features.
        backwards: gradients taken through the denoiser.
    """

    forwards: int = 0
    rows: int = 0
    cached_rows: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class CallRecord:
    """What one denoiser call saw.

    Attributes:
        step: index of the step.
        rows: name of the pass, for every row.
        weights: weight [K] of the adapters, for every row.
    """

    step: int
    rows: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass
class Run:
    """What a composition method may know and do.

    Attributes:
        family: the model.
        adapters: K adapters, in the order of the request.
        weights, text_weights: [K] weights in the denoiser and in the text encoders.
        prompts, negatives: one of each for every image.
        guidance: scale of classifier-free guidance; 1 for none.
        distilled_guidance: scale that a guidance-distilled model takes as an input; None for other
            models.
        clip_skip: as of `TextOptions`.
        schedule: this run's own scheduler.
        slots: component name to gate slot.
        regions: [K, H, W] in [0, 1] on the grid of the latents, where each adapter belongs; ones
            for adapters without a region.
        placed: [K] whether an adapter has a region.
        row_budget: most rows of one denoiser call; None for no limit.
        state: what the method remembers; nobody else touches it.
        calls, trace: what the run cost, and what every denoiser call saw.
    """

    family: Family
    adapters: AdapterSet
    weights: tuple[float, ...]
    text_weights: tuple[float, ...]
    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    guidance: float
    schedule: Schedule
    slots: dict[str, GateSlot]
    regions: Tensor
    placed: tuple[bool, ...]
    distilled_guidance: float | None = None
    clip_skip: int | None = None
    row_budget: int | None = None
    state: Any = None
    calls: Calls = field(default_factory=Calls)
    trace: list[CallRecord] = field(default_factory=list)
    _texts: dict[tuple[float, ...], Guided] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images made side by side."""
        return len(self.prompts)

    @property
    def guided(self) -> bool:
        """Whether there is a pass for the negative prompt."""
        return self.guidance > 1.0

    @cached_property
    def text_options(self) -> TextOptions:
        """How every prompt of the run is encoded."""
        texts = {*self.prompts, *(self.negatives if self.guided else ())}
        return TextOptions(self.clip_skip, self.family.windows(sorted(texts)))

    def scaled(self, shares: Sequence[float]) -> list[float]:
        """Denoiser weight [K] of every adapter times a share [K]."""
        return [w * s for w, s in zip(self.weights, shares, strict=True)]

    def text(self, shares: Sequence[float]) -> Guided:
        """Conditioning with each adapter's text-encoder part at a share [K] of its weight.

        Encoded once per share.
        """
        touched = self.encoder_weights(shares)
        if touched not in self._texts:
            uncond = None
            if self.guided:
                encoded = self.encode(self.negatives, touched)
                uncond = self.family.unconditional(self.negatives, encoded)
            self._texts[touched] = Guided(self.encode(self.prompts, touched), uncond)
        return self._texts[touched]

    def encode(self, prompts: Sequence[str], weights: Sequence[float]) -> Conditioning:
        """Encode prompts, one row each, with the adapters' text-encoder parts at weights [K]."""
        gate = Gate.all(weights).expand(len(prompts))
        with ExitStack() as held:
            for name, slot in self.slots.items():
                if name in self.family.text_names:
                    held.enter_context(slot.hold(gate))
            return self.family.encode(prompts, self.text_options)

    def positions(self, k: int, *, class_word: bool = False) -> tuple[tuple[int, ...], ...]:
        """Text positions of the words that call adapter `k`, for every image.

        Args:
            k: which adapter.
            class_word: as of `compose.adapters.triggers.called_at`.

        Raises:
            RequestError: no text encoder sees them.
        """
        tokens = self.text([1.0] * len(self.adapters)).cond.tokens
        adapter = self.adapters.adapters[k]
        return tuple(
            called_at(adapter, row, prompt, class_word=class_word)
            for row, prompt in zip(tokens, self.prompts, strict=True)
        )

    def guided_passes(
        self, label: str, gate: Gate, shares: Sequence[float], *, uncond: bool = True
    ) -> list[Pass]:
        """The pass of the negative prompt (with guidance only) and that of the prompt.

        Args:
            label: suffix of the names "uncond" and "cond", so that several pairs stay apart.
            gate: for both; the negative prompt's is off when `uncond` is False.
            shares: [K] for the text encoders.
            uncond: whether the gate acts on the negative prompt.
        """
        texts = self.text(shares)
        passes = [Pass("cond" + label, texts.cond, gate)]
        if texts.uncond is not None:
            off = Gate.off(gate.adapters)
            passes.insert(0, Pass("uncond" + label, texts.uncond, gate if uncond else off))
        return passes

    def predict(self, latents: Tensor, step: Step, passes: Sequence[Pass]) -> dict[str, Tensor]:
        """Run passes on the same latents, as rows of as few denoiser calls as the row budget
        allows.

        Args:
            latents: [images, C, H, W], not scaled.
            step: where the run stands.
            passes: with names of their own.

        Returns:
            Name of the pass to its prediction [images, C, H, W].
        """
        scaled = self.schedule.scale(latents, step)
        groups = self._groups(passes, latents.shape[0])
        return by_pass(groups, [self._call(scaled, step, group) for group in groups])

    def encoder_weights(self, shares: Sequence[float]) -> tuple[float, ...]:
        """Weight [K] of the adapters' text-encoder parts at a share [K]; 0 for those without."""
        weights = [w * s for w, s in zip(self.text_weights, shares, strict=True)]
        return tuple(w if self._touches_text(k) else 0.0 for k, w in enumerate(weights))

    def _touches_text(self, k: int) -> bool:
        prefixes = tuple(f"{name}." for name in self.family.text_names)
        return any(site.startswith(prefixes) for site in self.adapters.adapters[k].factors)

    def _chunks(self, images: int) -> list[tuple[int, int]]:
        size = min(images, self.row_budget or images)
        return [(a, min(a + size, images)) for a in range(0, images, size)]

    def _groups(self, passes: Sequence[Pass], images: int) -> list[list[Piece]]:
        """Passes over some images as the rows of as few calls as the row budget allows."""
        pieces = [Piece(p, start, stop) for p in passes for start, stop in self._chunks(images)]
        groups: list[list[Piece]] = []
        room = 0
        for piece in pieces:
            rows = piece.stop - piece.start
            if not groups or (self.row_budget is not None and rows > room):
                groups.append([])
                room = self.row_budget or 0
            groups[-1].append(piece)
            room -= rows
        return groups

    def _call(self, scaled: Tensor, step: Step, group: Sequence[Piece]) -> Tensor:
        gate = self._gate(step, group, scaled.shape[0])
        rows = torch.cat([scaled[a:b] for _, a, b in group])
        conditioning = stacked(group)
        with self.slots[self.family.denoiser_name].hold(gate, self.family.layout(rows)):
            return self.family.predict(rows, step, conditioning, self.distilled_guidance)

    def _gate(self, step: Step, group: Sequence[Piece], images: int) -> Gate:
        """The gate of one call, which is counted and recorded."""
        gate = Gate.stack([p.gate.expand(images).narrow(a, b) for p, a, b in group])
        names = tuple(p.name for p, a, b in group for _ in range(a, b))
        self.calls.forwards += 1
        self.calls.rows += gate.rows
        self.trace.append(CallRecord(step.index, names, tuple(map(tuple, gate.weight.tolist()))))
        return gate


def by_pass(groups: Sequence[Sequence[Piece]], outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """What calls gave, one output [rows, ...] for every group, sorted by name of the pass."""
    found: dict[str, list[Tensor]] = {}
    for group, output in zip(groups, outputs, strict=True):
        rows = torch.split(output, [b - a for _, a, b in group])
        for piece, part in zip(group, rows, strict=True):
            found.setdefault(piece.of.name, []).append(part)
    return {n: parts[0] if len(parts) == 1 else torch.cat(parts) for n, parts in found.items()}


def stacked(group: Sequence[Piece]) -> Conditioning:
    """The conditioning of the rows of one call."""
    parts = [(p.conditioning, a, b) for p, a, b in group]
    embeds = torch.cat([c.embeds[a:b] for c, a, b in parts])
    extra = {n: torch.cat([c.extra[n][a:b] for c, a, b in parts]) for n in parts[0][0].extra}
    return Conditioning(embeds, extra, tuple(t for c, a, b in parts for t in c.tokens[a:b]))
