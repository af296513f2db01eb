"""Passes over the denoiser, and how they become rows of as few calls as possible."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from compose.attention.bias import Bias
from compose.attention.capture import Capture
from compose.attention.layers import Images
from compose.attention.streams import Guest, Stream
from compose.attention.watch import Watched
from compose.gate import Gate
from compose.types import Conditioning, Step


@dataclass(frozen=True)
class Pass:
    """One way of asking the denoiser: a conditioning under a gate. All passes of a step are rows of
    one batch.

    Attributes:
        name: key of the prediction that comes back.
        conditioning: one row for every image.
        gate: one row, or one for every image.
        capture: what of its attention is kept, by names of the method's own; see `Run.maps`.
        bias: what is added to the logits of its attention.
        streams: further texts for some places of the picture.
    """

    name: str
    conditioning: Conditioning
    gate: Gate
    capture: Mapping[str, Capture] = field(default_factory=dict)
    bias: Sequence[Bias] = ()
    streams: Sequence[Stream] = ()

    @property
    def captures(self) -> bool:
        """Whether anything of its attention is kept."""
        return bool(self.capture) or any(stream.capture for stream in self.streams)


class Piece(NamedTuple):
    """Images `start` to `stop` (exclusive) of a pass: rows of one call."""

    of: Pass
    start: int
    stop: int


@dataclass
class Calls:
    """What a run cost.

    Attributes:
        forwards: denoiser calls, those for attention alone among them.
        rows: samples of these calls.
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
        streams: the same of rows that were there in cross-attention only: name and weights.
    """

    step: int
    rows: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    streams: tuple[tuple[str, tuple[float, ...]], ...] = ()


class Guided(NamedTuple):
    """Conditioning of the prompt and of the negative prompt (None without guidance)."""

    cond: Conditioning
    uncond: Conditioning | None


def grouped(passes: Sequence[Pass], images: int, budget: int | None) -> list[list[Piece]]:
    """Passes over some images as the rows of as few calls as a row budget allows.

    Args:
        passes: of one step.
        images: rows of every pass.
        budget: most rows of a call; None for no limit.
    """
    size = min(images, budget or images)
    chunks = [(a, min(a + size, images)) for a in range(0, images, size)]
    groups: list[list[Piece]] = []
    room = 0
    for piece in (Piece(p, start, stop) for p in passes for start, stop in chunks):
        rows = piece.stop - piece.start
        if not groups or (budget is not None and rows > room):
            groups.append([])
            room = budget or 0
        groups[-1].append(piece)
        room -= rows
    return groups


def watched(group: Sequence[Piece]) -> list[Watched]:
    """What is wanted of the attention of the rows of one call."""
    return [Watched(p.name, rows, images, p.capture, p.bias) for p, rows, images in _placed(group)]


def guests(group: Sequence[Piece]) -> list[Guest]:
    """The streams that join the rows of one call."""
    return [
        Guest(p.name, stream, rows, images)
        for p, rows, images in _placed(group)
        for stream in p.streams
    ]


def _placed(group: Sequence[Piece]) -> Iterator[tuple[Pass, slice, Images]]:
    """The passes of one call, which rows of it are theirs, and which of their images these are."""
    stops = itertools.accumulate(b - a for _, a, b in group)
    for (p, a, b), stop in zip(group, stops, strict=True):
        yield p, slice(stop - b + a, stop), Images(a, b, p.conditioning.rows)


def recorded(step: Step, group: Sequence[Piece], gate: Gate) -> CallRecord:
    """What one call over a group sees, under its gate."""
    streams = [
        (f"{p.name}/{stream.name}", stream.gate.expand(p.conditioning.rows).weight[a:b])
        for p, a, b in group
        for stream in p.streams
    ]
    return CallRecord(
        step.index,
        tuple(p.name for p, a, b in group for _ in range(a, b)),
        tuple(map(tuple, gate.weight.tolist())),
        tuple((name, tuple(row)) for name, weights in streams for row in weights.tolist()),
    )


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
