"""Scenes as tables of primitives: plain tensors, cheap to build and to send between processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compose.world.drawing import animals, backgrounds, fantasy, figures, objects
from compose.world.drawing.patterns import Look, look_of
from compose.world.drawing.pen import Pen, Row, flat
from compose.world.scene import Scene, Thing
from compose.world.vocabulary import STYLES

SIZE = 128
COLUMNS = (
    "kind", "x", "y", "a", "b", "r", "s", "angle", "line", "alpha", "edge", "thing",
    "ink", "ink2", "fill", "fill_x", "fill_y", "fill_p", "fill_q", "fill_angle", "shade", "worn",
)  # fmt: skip

FIGURES: dict[str, Callable[[Pen, Look], None]] = {
    "cat": animals.cat, "dog": animals.dog, "rabbit": animals.rabbit, "bear": animals.bear,
    "bird": figures.bird, "robot": figures.robot,
    "car": objects.car, "house": objects.house, "tree": objects.tree, "mug": objects.mug,
    "ball": objects.ball, "rocket": objects.rocket, "cake": objects.cake,
}  # fmt: skip
PLACES: dict[str, backgrounds.Painter] = {
    "meadow": backgrounds.meadow, "beach": backgrounds.beach, "night": backgrounds.night,
    "room": backgrounds.room, "snow": backgrounds.snow, "desert": backgrounds.desert,
    "candy": fantasy.candy, "moon": fantasy.moon,
}  # fmt: skip
RIMS = {"night": 1.1, "moon": 1.1}  # pixels of pale light around things in dark places
STICKER_RIM = 3.6
_NO_LINE = -4.0  # puts the outline's inner edge outside the shape
_MOONLIGHT, _PAPER = flat((214, 224, 250)), flat((255, 255, 255))
_SHADOW = flat((34, 30, 60))


@dataclass(frozen=True)
class Table:
    """Packed scenes.

    Attributes:
        rows: primitives of all scenes one after the other, [M, 22] float32; see `COLUMNS`.
        counts: primitives of each scene, [N] int64.
        styles: index into `vocabulary.STYLES` of each scene, [N] int64.
    """

    rows: Tensor
    counts: Tensor
    styles: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, part: slice) -> Table:
        """The scenes of a contiguous slice."""
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"a table takes slices of step 1, given {step}")
        ends = torch.cumsum(self.counts, 0)
        first = int(ends[start - 1]) if start else 0
        last = int(ends[stop - 1]) if stop > start else first
        return Table(self.rows[first:last], self.counts[part], self.styles[part])

    @staticmethod
    def join(tables: Iterable[Table]) -> Table:
        """Tables one after the other."""
        parts = list(tables)
        return Table(
            torch.cat([t.rows for t in parts]),
            torch.cat([t.counts for t in parts]),
            torch.cat([t.styles for t in parts]),
        )


@dataclass(frozen=True)
class _Frame:
    """Where rows of one frame go: the thing's place in the picture, in pixels."""

    x: float
    y: float
    scale: float
    tilt: float = 0.0
    mirror: float = 1.0
    line: float = 0.0
    thing: float = -1.0


def pack(scenes: Sequence[Scene]) -> Table:
    """Draw scenes as rows of primitives.

    Args:
        scenes: at least one.

    Returns:
        Their table, on the CPU.
    """
    rows: list[Row] = []
    frames: list[_Frame] = []
    lengths: list[int] = []
    counts: list[int] = []
    pale: list[int] = []
    worn: list[int] = []
    for scene in scenes:
        before = len(rows)
        for part, frame, accessory in _parts(scene):
            worn.extend(len(rows) + index for index in accessory)
            rows.extend(part)
            frames.append(frame)
            lengths.append(len(part))
            if scene.style == "sticker" and frame.thing < 0:
                pale.append(len(frames) - 1)
        counts.append(len(rows) - before)
    table = _placed(np.asarray(rows, dtype=np.float64), frames, np.asarray(lengths))
    table[worn, COLUMNS.index("worn")] = 1
    if pale:
        _fade(table, np.repeat(np.isin(np.arange(len(frames)), pale), lengths))
    return Table(
        torch.from_numpy(table.astype(np.float32)),
        torch.tensor(counts),
        torch.tensor([STYLES.index(scene.style) for scene in scenes]),
    )


def _parts(scene: Scene) -> Iterable[tuple[list[Row], _Frame, list[int]]]:
    """Rows of the background, of the shadows and of each thing, with their frames and with the
    indices of those that draw accessories."""
    pen = Pen(line=0.0, solid=False)
    PLACES[scene.background](pen, Random(scene.detail), scene.light)
    shadow = 0.0 if scene.style == "sticker" else 0.2
    for thing in scene.things:
        foot = thing.y + thing.size * 0.485
        pen.ellipse(thing.x, foot, thing.size * 0.4, thing.size * 0.055, _SHADOW, alpha=shadow)
    yield pen.rows, _Frame(0.0, 0.0, float(SIZE)), []
    rim, tone = RIMS.get(scene.background, 0.0), _MOONLIGHT
    if scene.style == "sticker":
        rim, tone = STICKER_RIM, _PAPER
    for index, thing in enumerate(scene.things):
        pen = Pen()
        FIGURES[thing.species](pen, look_of(thing))
        frame = _frame(thing, index)
        if rim:
            halo = [
                (*row[:8], 0.0, rim, row[10], tone.ink, 0.0, *tone) for row in pen.rows if row[12]
            ]
            yield halo, _Frame(frame.x, frame.y, frame.scale, frame.tilt, frame.mirror), []
        yield pen.rows, frame, pen.worn


def _frame(thing: Thing, index: int) -> _Frame:
    return _Frame(
        x=thing.x * SIZE,
        y=thing.y * SIZE,
        scale=thing.size * SIZE,
        tilt=math.radians(thing.tilt),
        mirror=-1.0 if thing.flip else 1.0,
        line=1.25 + 0.75 * thing.size,
        thing=float(index),
    )


def _placed(
    local: NDArray[np.float64], frames: list[_Frame], lengths: NDArray[Any]
) -> NDArray[np.float64]:
    """Move rows of the pen, [M, 22], into the picture, [M, 22] as of `COLUMNS`."""
    numbers = np.array([(f.x, f.y, f.scale, f.tilt, f.mirror, f.line, f.thing) for f in frames])
    x, y, scale, tilt, mirror, line, thing = np.repeat(numbers, lengths, axis=0).T
    cos, sin = np.cos(tilt) * scale, np.sin(tilt) * scale
    out = np.empty((len(local), len(COLUMNS)))
    out[:, 0] = local[:, 0]
    out[:, 1] = x + cos * local[:, 1] * mirror - sin * local[:, 2]
    out[:, 2] = y + sin * local[:, 1] * mirror + cos * local[:, 2]
    out[:, 3:7] = local[:, 3:7] * scale[:, None]
    out[:, 5] += local[:, 9]
    out[:, 7] = local[:, 7] * mirror + tilt
    out[:, 8] = np.where(local[:, 8] > 0, local[:, 8] * line, _NO_LINE)
    out[:, 9:11] = local[:, 10:12]
    out[:, 11] = thing
    out[:, 12:15] = local[:, 13:16]
    out[:, 15] = x + cos * local[:, 16] * mirror - sin * local[:, 17]
    out[:, 16] = y + sin * local[:, 16] * mirror + cos * local[:, 17]
    out[:, 17] = local[:, 18] * scale
    out[:, 18] = local[:, 19]
    out[:, 19] = np.where(mirror < 0, math.pi - local[:, 20], local[:, 20]) + tilt
    out[:, 20] = local[:, 21]
    out[:, 21] = 0
    return out


def _fade(table: NDArray[np.float64], rows: NDArray[np.bool_]) -> None:
    """Make inks flat and pale: the backing paper of the sticker style."""
    for column in (10, 12, 13):
        packed = table[rows, column].astype(np.int64)
        parts = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.float64)
        gray = parts.mean(-1, keepdims=True)
        parts = np.rint((parts * 0.55 + gray * 0.45) * 0.62 + 0.38 * 226)
        table[rows, column] = parts @ np.array([65536.0, 256.0, 1.0])
