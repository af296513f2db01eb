"""One run of the denoising loop, as a composition method sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.adapters.adapter import AdapterSet
from compose.adapters.triggers import called_at
from compose.attention.bias import Bias
from compose.attention.capture import Captured, Record, gathered
from compose.attention.streams import Streams
from compose.attention.watch import Watch
from compose.errors import CaptureError
from compose.gate import Gate
from compose.passes import (
    CallRecord,
    Calls,
    Guided,
    Pass,
    Piece,
    by_pass,
    grouped,
    guests,
    recorded,
    stacked,
    watched,
)
from compose.slot import GateSlot, TokenLayout
from compose.types import AttentionSite, Conditioning, Encoded, Step, TextOptions

if TYPE_CHECKING:
    from torch import nn

    from compose.models.family import Family
    from compose.models.schedule import Schedule

__all__ = ["CallRecord", "Calls", "Pass", "Run"]


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
        maps: what the passes of the latest `predict` captured.
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
    maps: Captured = field(default_factory=dict)
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
            uncond = self.encode(self.negatives, touched, negative=True) if self.guided else None
            self._texts[touched] = Guided(self.encode(self.prompts, touched), uncond)
        return self._texts[touched]

    def encode(
        self, prompts: Sequence[str], weights: Sequence[float], *, negative: bool = False
    ) -> Conditioning:
        """Encode prompts (or negative ones), a row each, adapters' text parts at weights [K]."""
        gate = Gate.all(weights).expand(len(prompts))
        with ExitStack() as held:
            for name, slot in self.slots.items():
                if name in self.family.text_names:
                    held.enter_context(slot.hold(gate))
            found = self.family.encode(prompts, self.text_options)
        if negative:
            found = self.family.unconditional(prompts, found)
        made = Encoded(tuple(prompts), tuple(weights), negative, found.embeds)
        return replace(found, encoded=made)

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
        self,
        label: str,
        gate: Gate,
        shares: Sequence[float],
        *,
        uncond: bool = True,
        bias: Sequence[Bias] = (),
    ) -> list[Pass]:
        """The pass of the negative prompt (with guidance only) and that of the prompt.

        Args:
            label: suffix of the names "uncond" and "cond", so that several pairs stay apart.
            gate: for both; the negative prompt's is off when `uncond` is False.
            shares: [K] for the text encoders.
            uncond: whether gate and bias act on the negative prompt.
            bias: what is added to the logits of attention.
        """
        texts = self.text(shares)
        passes = [Pass("cond" + label, texts.cond, gate, bias=bias)]
        if texts.uncond is not None:
            alike = Pass("uncond" + label, texts.uncond, gate, bias=bias)
            bare = Pass("uncond" + label, texts.uncond, Gate.off(gate.adapters))
            passes.insert(0, alike if uncond else bare)
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

        Raises:
            CaptureError: attention cannot be captured or biased as the passes ask for it.
        """
        scaled = self.schedule.scale(latents, step)
        groups = grouped(passes, latents.shape[0], self.row_budget)
        kept: list[Record] = []
        outputs = [self._call(scaled, step, group, kept) for group in groups]
        self.maps = gathered(kept)
        return by_pass(groups, outputs)

    def attention(self, latents: Tensor, step: Step, passes: Sequence[Pass]) -> Captured:
        """What passes capture, from denoiser calls that end as soon as everything is captured.

        With gradients on, the maps lead back to the latents.

        Args:
            latents, step: as of `predict`.
            passes: those that capture nothing do not run.

        Raises:
            CaptureError: as of `predict`, or no pass captures anything.
        """
        wanted = [p for p in passes if p.captures]
        if not wanted:
            raise CaptureError(
                f"attention alone was asked of {', '.join(p.name for p in passes) or 'no pass'};"
                " expected passes that capture something"
            )
        scaled = self.schedule.scale(latents, step)
        kept: list[Record] = []
        for group in grouped(wanted, latents.shape[0], self.row_budget):
            self._call(scaled, step, group, kept, partial=True)
        return gathered(kept)

    def encoder_weights(self, shares: Sequence[float]) -> tuple[float, ...]:
        """Weight [K] of the adapters' text-encoder parts at a share [K]; 0 for those without."""
        weights = [w * s for w, s in zip(self.text_weights, shares, strict=True)]
        return tuple(w if self._touches_text(k) else 0.0 for k, w in enumerate(weights))

    def _touches_text(self, k: int) -> bool:
        prefixes = tuple(f"{name}." for name in self.family.text_names)
        return any(site.startswith(prefixes) for site in self.adapters.adapters[k].factors)

    def _call(
        self,
        scaled: Tensor,
        step: Step,
        group: Sequence[Piece],
        kept: list[Record],
        *,
        partial: bool = False,
    ) -> Tensor:
        gate = self._gate(step, group, scaled.shape[0])
        rows = torch.cat([scaled[a:b] for _, a, b in group])
        text = stacked(group)
        layout, prediction = self.family.layout(rows), rows[:0]  # none from a partial call
        with self._calling(group, gate, layout, text.embeds.shape[1], partial=partial) as records:
            prediction = self.family.predict(rows, step, text, self.distilled_guidance)
        kept += records
        return prediction

    @cached_property
    def _layers(self) -> dict[AttentionSite, nn.Module]:
        return self.family.attention_layers()

    @contextmanager
    def _calling(
        self,
        group: Sequence[Piece],
        gate: Gate,
        layout: TokenLayout,
        text: int,
        *,
        partial: bool = False,
    ) -> Iterator[list[Record]]:
        """Around one call: its gate; attention in its back end, captured and biased as the passes
        ask, and joined by their streams.
        """
        slot = self.slots[self.family.denoiser_name]
        with slot.hold(gate, layout):
            streams = Streams(self._layers, layout, text, slot, gate, guests(group))
            parts = [*watched(group), *streams.watched]
            watch = Watch(self._layers, layout, text, parts, slot=slot, partial=partial)
            seen = [*watch.modules, *streams.modules]
            with (
                streams.joining(),
                watch.watching(),
                self.family.routed(self._layers, watched=seen, biased=watch.biased),
            ):
                yield watch.records

    def _gate(self, step: Step, group: Sequence[Piece], images: int) -> Gate:
        """The gate of one call, which is counted and recorded."""
        gate = Gate.stack([p.gate.expand(images).narrow(a, b) for p, a, b in group])
        self.calls.forwards += 1
        self.calls.rows += gate.rows
        self.trace.append(recorded(step, group, gate))
        return gate
