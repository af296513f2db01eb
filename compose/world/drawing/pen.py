"""The primitives of a picture as rows of numbers.

A `Pen` writes rows in the frame of one thing: x to the right, y down, the thing's height is 1 and
its middle the origin. `compose.world.drawing.table` moves them into the picture.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

from compose.world.drawing.palette import OUTLINE, ink
from compose.world.vocabulary import Colour


class Kind(IntEnum):
    """Shapes; a, b, r, s are the row's numbers of the same names."""

    ELLIPSE = 0  # half axes a, b
    TAPER = 1  # trapezoid: half width a at the bottom, s at the top, half height b; rounded by r
    STAR = 2  # five points of radius a, inner radius s
    HEART = 3  # half width a
    ARC = 4  # circle of radius a, half thickness r, over b / a radians to both sides of local +y
    MOON = 5  # disc of radius a without the disc of radius b whose centre lies s below


class Fill(IntEnum):
    """How the second ink lies over the first; p is a length, q a ratio."""

    SOLID = 0
    GRADIENT = 1  # first to second ink along the direction, over a length of 2 p
    STRIPES = 2  # across the direction: period p, share q in the second ink
    SPLIT = 3  # second ink on the side that the direction points to
    CHECKER = 4  # squares of side p
    SPOTS = 5  # quincunx of spacing p, radius q p
    PATCH = 6  # ellipse with half axes p, q p


class Paint(NamedTuple):
    """What fills a primitive; places are in the frame of the thing, so that its parts match up."""

    ink: float
    ink2: float
    fill: float = 0.0
    x: float = 0.0
    y: float = 0.0
    p: float = 1.0
    q: float = 0.5
    angle: float = 0.0
    shade: float = 0.0


# A row of the pen: kind x y a b r s angle | line grow alpha edge solid | ink ink2 fill x y p q
# angle shade
EDGE = ink(OUTLINE)
Row = tuple[float, ...]


def flat(colour: Colour, shade: float = 0.0) -> Paint:
    """One colour; `shade` in [0, 1] brightens the top and darkens the bottom of each primitive."""
    tone = ink(colour)
    return Paint(tone, tone, shade=shade)


def fade(
    first: Colour, second: Colour, y: float, reach: float, angle: float = math.pi / 2
) -> Paint:
    """A gradient: the first colour `reach` before y, the second colour `reach` after it."""
    return Paint(ink(first), ink(second), float(Fill.GRADIENT), 0.5, y, reach, 0.0, angle)


class Pen:
    """Collects rows. Every method takes the centre, the measures and the paint.

    Args (common to all methods):
        line: outline as a multiple of the thing's line width, 0 for none.
        grow: pixels by which the shape is made larger (negative: smaller).
        solid: whether the primitive belongs to the silhouette of the thing.
    """

    def __init__(self, line: float = 1.0, solid: bool = True) -> None:
        self.rows: list[Row] = []
        self.worn: list[int] = []  # rows of accessories
        self.line = line
        self.solid = float(solid)

    def ellipse(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        paint: Paint,
        *,
        angle: float = 0.0,
        line: float | None = None,
        grow: float = 0.0,
        alpha: float = 1.0,
        solid: bool | None = None,
    ) -> None:
        """Ellipse with half axes a, b."""
        self._add((0.0, x, y, a, b, 0.0, 0.0, angle), paint, line, grow, alpha, solid)

    def box(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        paint: Paint,
        *,
        round: float = 0.0,
        angle: float = 0.0,
        line: float | None = None,
        grow: float = 0.0,
        alpha: float = 1.0,
        solid: bool | None = None,
    ) -> None:
        """Rectangle with half width a, half height b and corners of radius `round`."""
        inner = a - round
        self._add(
            (1.0, x, y, inner, b - round, round, inner, angle), paint, line, grow, alpha, solid
        )

    def taper(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        top: float,
        paint: Paint,
        *,
        round: float = 0.0,
        angle: float = 0.0,
        line: float | None = None,
        grow: float = 0.0,
        alpha: float = 1.0,
        solid: bool | None = None,
    ) -> None:
        """Trapezoid or triangle: half width a below and `top` above, half height b."""
        low, high = max(a - round, 0.0), max(top - round, 0.0)
        self._add((1.0, x, y, low, b - round, round, high, angle), paint, line, grow, alpha, solid)

    def limb(
        self,
        x: float,
        y: float,
        to_x: float,
        to_y: float,
        width: float,
        paint: Paint,
        *,
        line: float | None = None,
        grow: float = 0.0,
        solid: bool | None = None,
    ) -> None:
        """Straight stroke with round ends, `width` to both sides."""
        dx, dy = to_x - x, to_y - y
        shape = (
            1.0,
            (x + to_x) / 2,
            (y + to_y) / 2,
            0.0,
            math.hypot(dx, dy) / 2,
            width,
            0.0,
            math.atan2(-dx, dy),
        )
        self._add(shape, paint, line, grow, 1.0, solid)

    def star(
        self,
        x: float,
        y: float,
        a: float,
        paint: Paint,
        *,
        inner: float = 0.5,
        round: float = 0.0,
        angle: float = 0.0,
        line: float | None = None,
        solid: bool | None = None,
    ) -> None:
        """Five-pointed star; `inner` is the inner radius as a share of a."""
        self._add(
            (2.0, x, y, a - round, 0.0, round, (a - round) * inner, angle),
            paint,
            line,
            0.0,
            1.0,
            solid,
        )

    def heart(
        self,
        x: float,
        y: float,
        a: float,
        paint: Paint,
        *,
        angle: float = 0.0,
        line: float | None = None,
        solid: bool | None = None,
    ) -> None:
        """Heart of half width a around its middle."""
        self._add((3.0, x, y, a, a, 0.0, 0.0, angle), paint, line, 0.0, 1.0, solid)

    def arc(
        self,
        x: float,
        y: float,
        radius: float,
        reach: float,
        towards: float,
        width: float,
        paint: Paint,
        *,
        line: float | None = None,
        grow: float = 0.0,
        solid: bool | None = None,
    ) -> None:
        """Part of a circle around (x, y): `reach` radians to both sides of `towards`."""
        shape = (4.0, x, y, radius, reach * radius, width, 0.0, towards - math.pi / 2)
        self._add(shape, paint, line, grow, 1.0, solid)

    def moon(
        self, x: float, y: float, a: float, bite: float, shift: float, paint: Paint, *, angle: float
    ) -> None:
        """Crescent: disc of radius a without a disc of radius `bite` that lies `shift` away."""
        self._add((5.0, x, y, a, bite, 0.0, shift, angle), paint, 0.0, 0.0, 1.0, None)

    def _add(
        self,
        shape: Row,
        paint: Paint,
        line: float | None,
        grow: float,
        alpha: float,
        solid: bool | None,
    ) -> None:
        width = self.line if line is None else line
        edge = EDGE if width > 0 else paint[0]
        part = self.solid if solid is None else float(solid)
        self.rows.append((*shape, width, grow, alpha, edge, part, *paint))
