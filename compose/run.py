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
        weights = tuple(w * s for w, s in zip(self.text_weights, shares, strict=True))
        touched = tuple(w if self._touches_text(k) else 0.0 for k, w in enumerate(weights))
        if touched not in self._texts:
            uncond = self.encode(self.negatives, touched) if self.guided else None
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
        pieces = [
            (p, start, stop) for p in passes for start, stop in self._chunks(latents.shape[0])
        ]
        out: dict[str, list[Tensor]] = {p.name: [] for p in passes}
        scaled = self.schedule.scale(latents, step)
        for group in self._groups(pieces):
            prediction = self._call(scaled, step, group)
            for (p, start, stop), rows in zip(
                group, torch.split(prediction, [b - a for _, a, b in group]), strict=True
            ):
                del start, stop
                out[p.name].append(rows)
        return {
            name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in out.items()
        }

    def _touches_text(self, k: int) -> bool:
        prefixes = tuple(f"{name}." for name in self.family.text_names)
        return any(site.startswith(prefixes) for site in self.adapters.adapters[k].factors)

    def _chunks(self, images: int) -> list[tuple[int, int]]:
        size = min(images, self.row_budget or images)
        return [(a, min(a + size, images)) for a in range(0, images, size)]

    def _groups(self, pieces: list[tuple[Pass, int, int]]) -> list[list[tuple[Pass, int, int]]]:
        groups: list[list[tuple[Pass, int, int]]] = []
        room = 0
        for piece in pieces:
            rows = piece[2] - piece[1]
            if not groups or (self.row_budget is not None and rows > room):
                groups.append([])
                room = self.row_budget or 0
            groups[-1].append(piece)
            room -= rows
        return groups

    def _call(self, scaled: Tensor, step: Step, group: list[tuple[Pass, int, int]]) -> Tensor:
        gate = Gate.stack([p.gate.expand(scaled.shape[0]).narrow(a, b) for p, a, b in group])
        rows = torch.cat([scaled[a:b] for _, a, b in group])
        conditioning = _stack([p.conditioning for p, _, _ in group], [(a, b) for _, a, b in group])
        self.calls.forwards += 1
        self.calls.rows += rows.shape[0]
        names = tuple(p.name for p, a, b in group for _ in range(a, b))
        self.trace.append(CallRecord(step.index, names, tuple(map(tuple, gate.weight.tolist()))))
        with self.slots[self.family.denoiser_name].hold(gate, self.family.layout(rows)):
            return self.family.predict(rows, step, conditioning, self.distilled_guidance)


def _stack(parts: Sequence[Conditioning], spans: Sequence[tuple[int, int]]) -> Conditioning:
    """Rows `spans` of several conditionings, one after another."""
    embeds = torch.cat([c.embeds[a:b] for c, (a, b) in zip(parts, spans, strict=True)])
    names = parts[0].extra
    extra = {
        n: torch.cat([c.extra[n][a:b] for c, (a, b) in zip(parts, spans, strict=True)])
        for n in names
    }
    tokens = tuple(t for c, (a, b) in zip(parts, spans, strict=True) for t in c.tokens[a:b])
    return Conditioning(embeds, extra, tokens)
