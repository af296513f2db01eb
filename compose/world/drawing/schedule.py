"""In which order the primitives of many scenes are drawn, so that many are drawn at once.

Within a scene the order is given; between scenes it is free. Primitives of one class (shape, box
size, kind of fill) can share a call, so the fewest calls are a shortest common supersequence of the
scenes' class sequences. The weighted majority-merge heuristic comes close: always draw the class
that is next in the scenes with most left to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compose.world.drawing.pen import Fill, Kind
from compose.world.drawing.table import COLUMNS, SIZE

BOXES = ((24, 24), (56, 56), (SIZE, 64), (SIZE, SIZE))  # widths and heights in pixels
_LARGE = 2  # boxes from here on are worth a class of their own for flat work
_AT = {name: index for index, name in enumerate(COLUMNS)}


class Work(IntEnum):
    """What has to be computed for a primitive besides its outline."""

    FLAT = 0  # one colour, no outline, no shade
    DRAWN = 1  # one colour with outline and shade
    FADE = 2  # a gradient without outline or shade
    PATTERN = 3  # any fill


@dataclass(frozen=True)
class Span:
    """Rows start to stop of the sorted table, drawn in one call."""

    start: int
    stop: int
    kind: Kind
    work: Work
    box: tuple[int, int]


@dataclass(frozen=True)
class Schedule:
    """Primitives in drawing order.

    Attributes:
        order: row of the table for each place of the order, [M] int64.
        corner: offset of each box's first pixel in a flat canvas of all scenes, in drawing order,
            [M] int64.
        left, top: the same pixel within its picture, in drawing order, [M] float32.
        spans: what is drawn at once.
    """

    order: Tensor
    corner: Tensor
    left: Tensor
    top: Tensor
    spans: tuple[Span, ...]


def schedule(rows: Tensor, counts: Tensor) -> Schedule:
    """Order the rows of a table.

    Args:
        rows: [M, 21] on the CPU.
        counts: rows of each scene, [n].

    Returns:
        The order and its spans.
    """
    box, left, top = _boxes(rows)
    code = (rows[:, _AT["kind"]].long() * len(Work) + _work(rows, box)) * len(BOXES) + box
    step = torch.from_numpy(_merge(code.numpy(), counts.numpy()))
    order = torch.argsort(step, stable=True)
    first = np.flatnonzero(np.diff(step[order].numpy(), prepend=-1))
    ends = np.append(first[1:], len(rows))
    spans = []
    for start, stop, number in zip(
        first.tolist(), ends.tolist(), code[order].numpy()[first].tolist(), strict=True
    ):
        number, size = divmod(number, len(BOXES))
        kind, work = divmod(number, len(Work))
        spans.append(Span(start, stop, Kind(kind), Work(work), BOXES[size]))
    scene = torch.repeat_interleave(torch.arange(len(counts)), counts)
    corner = (scene * SIZE + top) * SIZE + left
    return Schedule(order, corner[order], left[order].float(), top[order].float(), tuple(spans))


def _merge(code: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The call that draws each row, [M]: one code per call, rows of a scene in their order."""
    step = np.empty(len(code), dtype=np.int64)
    ends = np.cumsum(counts)
    place = ends - counts  # next row of each scene
    waiting: list[list[NDArray[np.intp]]] = [[] for _ in range(int(code.max(initial=0)) + 1)]
    weight = np.zeros(len(waiting))  # rows left in the scenes that wait for each code

    def wait(scenes: NDArray[np.intp]) -> None:
        ahead = code[place[scenes]]
        order = np.argsort(ahead, kind="stable")
        ahead, scenes = ahead[order], scenes[order]
        first = np.flatnonzero(np.diff(ahead, prepend=-1))
        weight[ahead[first]] += np.add.reduceat(ends[scenes] - place[scenes], first)
        for number, group in zip(ahead[first].tolist(), np.split(scenes, first[1:]), strict=True):
            waiting[number].append(group)

    live = np.flatnonzero(counts)
    now = 0
    while len(live) or weight.any():
        if len(live):
            wait(live)
        chosen = int(weight.argmax())
        scenes = np.concatenate(waiting[chosen])
        waiting[chosen], weight[chosen] = [], 0.0
        step[place[scenes]] = now
        place[scenes] += 1
        live = scenes[place[scenes] < ends[scenes]]
        now += 1
    return step


def _work(rows: Tensor, box: Tensor) -> Tensor:
    fill, plain = rows[:, _AT["fill"]], (rows[:, _AT["line"]] <= 0) & (rows[:, _AT["shade"]] == 0)
    work = torch.where(plain & (box >= _LARGE), int(Work.FLAT), int(Work.DRAWN))
    filled = torch.where(plain & (fill == Fill.GRADIENT), int(Work.FADE), int(Work.PATTERN))
    return torch.where(fill == Fill.SOLID, work, filled)


def _boxes(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index into `BOXES`, first column and first row of each primitive's box, [M] int64 each."""
    kind, a, b, s = (rows[:, _AT[name]] for name in ("kind", "a", "b", "s"))
    half_a = torch.where(
        kind == Kind.TAPER, torch.maximum(a, s), torch.where(kind == Kind.HEART, 1.25 * a, a)
    )
    half_b = torch.where(kind <= Kind.TAPER, b, half_a)
    cos, sin = (f(rows[:, _AT["angle"]]).abs() for f in (torch.cos, torch.sin))
    round_shape = kind > Kind.TAPER
    reach_x = torch.where(round_shape, half_a, half_a * cos + half_b * sin)
    reach_y = torch.where(round_shape, half_a, half_a * sin + half_b * cos)
    first, last = [], []
    for name, reach in (("x", reach_x), ("y", reach_y)):
        extent = reach + rows[:, _AT["r"]] + 1
        first.append((rows[:, _AT[name]] - extent).floor().clamp(0, SIZE).long())
        last.append((rows[:, _AT[name]] + extent).ceil().clamp(0, SIZE).long())
    size = torch.full_like(first[0], len(BOXES) - 1)
    for number in reversed(range(len(BOXES) - 1)):
        fits = (last[0] - first[0] <= BOXES[number][0]) & (last[1] - first[1] <= BOXES[number][1])
        size = torch.where(fits, number, size)
    limits = SIZE - torch.tensor(BOXES)[size]
    return size, torch.minimum(first[0], limits[:, 0]), torch.minimum(first[1], limits[:, 1])
