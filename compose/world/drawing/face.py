"""Eyes, noses and mouths."""

from __future__ import annotations

import math

from compose.world.drawing.palette import COAL, OUTLINE, WHITE
from compose.world.drawing.patterns import Look
from compose.world.drawing.pen import Pen, flat

EYE_WHITE = flat(WHITE)
PUPIL = flat((24, 20, 30))
DARK = flat(OUTLINE)
NOSE = flat(COAL)
PINK = flat((240, 138, 150))
BEAK = flat((250, 160, 40), 0.1)


def eyes(pen: Pen, look: Look, x: float, y: float, a: float, b: float, middle: float = 0.0) -> None:
    """Two eyes `x` to both sides of the middle; half axes a, b; the pose says where they look."""
    aside = (look.draw(5.3) - 0.5) * 0.74 * a
    down = (look.draw(7.9) - 0.4) * 0.4 * b
    for side in (-1, 1):
        at = middle + side * x
        pen.ellipse(at, y, a, b, EYE_WHITE, line=0.75, solid=False)
        pen.ellipse(at + aside, y + down, a * 0.53, b * 0.58, PUPIL, line=0.0, solid=False)
        pen.ellipse(
            at + aside - a * 0.2,
            y + down - b * 0.26,
            a * 0.24,
            b * 0.24,
            EYE_WHITE,
            line=0.0,
            solid=False,
        )


def smile(pen: Pen, x: float, y: float, radius: float, reach: float = 1.0) -> None:
    """A smiling mouth whose deepest point is (x, y)."""
    pen.arc(
        x, y - radius, radius, reach, math.pi / 2, 0.009, DARK, line=0.0, grow=0.25, solid=False
    )


def cat_mouth(pen: Pen, x: float, y: float, a: float) -> None:
    """Nose with two small arcs below."""
    for side in (-1, 1):
        smile(pen, x + side * a, y + a * 1.1, a, 1.25)
    pen.taper(x, y - a * 0.15, 0.0, a * 0.62, a * 0.95, PINK, line=0.6, round=0.008, solid=False)


def whiskers(pen: Pen, x: float, y: float, length: float) -> None:
    """Two whiskers on each cheek."""
    for side in (-1, 1):
        for rise in (-0.03, 0.03):
            pen.limb(
                side * x,
                y + rise * 0.55,
                side * (x + length),
                y + rise * 1.6,
                0.007,
                DARK,
                line=0.0,
                solid=False,
            )


def muzzle(pen: Pen, look: Look, y: float, a: float, b: float, nose: float) -> None:
    """Pale muzzle with a dark nose and a mouth."""
    pen.ellipse(0.0, y, a, b, look.pale, line=0.7, solid=False)
    smile(pen, 0.0, y + b * 0.62, a * 0.5, 1.1)
    pen.ellipse(0.0, y - b * 0.36, nose, nose * 0.72, NOSE, line=0.0, solid=False)
    pen.ellipse(
        -nose * 0.3,
        y - b * 0.36 - nose * 0.25,
        nose * 0.3,
        nose * 0.18,
        EYE_WHITE,
        line=0.0,
        solid=False,
    )
