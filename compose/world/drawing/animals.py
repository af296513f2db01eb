"""Cat, dog, rabbit and bear: one body plan, four kinds of head."""

from __future__ import annotations

import math
from typing import NamedTuple

from compose.world.drawing import face
from compose.world.drawing.accessories import at_neck, behind, on_head
from compose.world.drawing.palette import ink, mix, rgb
from compose.world.drawing.patterns import Look, emblem, tint
from compose.world.drawing.pen import Fill, Paint, Pen


class Build(NamedTuple):
    """Measures of a body, in heights of the thing."""

    head_y: float
    head_a: float
    head_b: float
    body_y: float
    body_a: float
    body_b: float
    arm: float
    foot: float


CAT = Build(-0.15, 0.29, 0.235, 0.25, 0.225, 0.22, 0.058, 0.1)
DOG = Build(-0.19, 0.27, 0.24, 0.25, 0.225, 0.22, 0.06, 0.105)
RABBIT = Build(-0.05, 0.255, 0.2, 0.275, 0.222, 0.2, 0.054, 0.11)
BEAR = Build(-0.16, 0.285, 0.24, 0.235, 0.262, 0.24, 0.07, 0.115)


def cat(pen: Pen, look: Look) -> None:
    """Pointed ears, whiskers, a long curved tail."""
    swing = (look.draw(3.7) - 0.5) * 0.7
    paint = look.all_over()
    behind(pen, look, 0.06, CAT.body_a, 0.48)
    pen.arc(0.2 + swing * 0.05, 0.2 - swing * 0.04, 0.17, 1.5, math.pi / 4 - swing, 0.046, paint)
    _body(pen, look, CAT)
    for side in (-1, 1):
        pen.taper(side * 0.185, -0.355, 0.115, 0.13, 0.0, paint, round=0.022, angle=side * 0.3)
        pen.taper(
            side * 0.185, -0.34, 0.06, 0.075, 0.0, _inner_ear(look), round=0.01,
            angle=side * 0.3, line=0.0, solid=False,
        )  # fmt: skip
    _head(pen, look, CAT)
    face.whiskers(pen, 0.2, -0.06, 0.13)
    face.eyes(pen, look, 0.122, -0.165, 0.088, 0.104)
    face.cat_mouth(pen, 0.0, -0.05, 0.04)
    on_head(pen, look, -0.37, 0.2, (look.draw(2.3) - 0.5) * 0.24)


def dog(pen: Pen, look: Look) -> None:
    """Floppy ears, a pale muzzle with a big nose, a short tail."""
    wag = (look.draw(3.7) - 0.5) * 0.8
    behind(pen, look, 0.04, DOG.body_a, 0.48)
    pen.limb(0.18, 0.33, 0.33 + wag * 0.06, 0.2 - wag * 0.1, 0.045, look.all_over())
    _body(pen, look, DOG)
    _head(pen, look, DOG)
    for side in (-1, 1):
        lift = (look.draw(4.9 + side) - 0.5) * 0.3
        pen.ellipse(side * 0.268, -0.17, 0.088, 0.19, look.dark, angle=-side * (0.2 + lift))
    face.eyes(pen, look, 0.107, -0.235, 0.086, 0.102)
    if look.draw(6.1) < 0.5:
        pen.box(0.0, -0.0, 0.045, 0.06, face.PINK, round=0.043, line=0.7, solid=False)
    face.muzzle(pen, look, -0.075, 0.145, 0.095, 0.062)
    on_head(pen, look, -0.42, 0.19, (look.draw(2.3) - 0.5) * 0.24)


def rabbit(pen: Pen, look: Look) -> None:
    """Long ears, front teeth, a cotton tail."""
    inner = _inner_ear(look)
    behind(pen, look, 0.12, RABBIT.body_a, 0.48)
    pen.ellipse(0.225, 0.36, 0.075, 0.07, tint(look.colour, (255, 255, 255), 0.75))
    _body(pen, look, RABBIT)
    for side in (-1, 1):
        spread = 0.16 + (look.draw(4.9 + side) - 0.3) * 0.3
        x, y = side * (0.1 + 0.17 * math.sin(spread)), -0.16 - 0.17 * math.cos(spread)
        pen.ellipse(x, y, 0.075, 0.19, look.all_over(), angle=side * spread)
        pen.ellipse(x, y + 0.01, 0.036, 0.13, inner, angle=side * spread, line=0.0, solid=False)
    _head(pen, look, RABBIT)
    face.eyes(pen, look, 0.114, -0.07, 0.084, 0.096)
    pen.box(0.0, 0.078, 0.034, 0.036, face.EYE_WHITE, round=0.01, line=0.6, solid=False)
    face.cat_mouth(pen, 0.0, 0.022, 0.034)
    on_head(pen, look, -0.23, 0.17, (look.draw(2.3) - 0.5) * 0.2)


def bear(pen: Pen, look: Look) -> None:
    """Round ears, a pale muzzle, a broad body."""
    behind(pen, look, 0.05, BEAR.body_a * 0.94, 0.48)
    _body(pen, look, BEAR)
    for side in (-1, 1):
        pen.ellipse(side * 0.205, -0.37, 0.1, 0.1, look.all_over())
        pen.ellipse(side * 0.205, -0.365, 0.055, 0.055, look.pale, line=0.0, solid=False)
    _head(pen, look, BEAR)
    face.eyes(pen, look, 0.118, -0.21, 0.086, 0.1)
    face.muzzle(pen, look, -0.06, 0.135, 0.1, 0.055)
    on_head(pen, look, -0.39, 0.19, (look.draw(2.3) - 0.5) * 0.24)


def _body(pen: Pen, look: Look, build: Build) -> None:
    """Feet, trunk with the pattern, arms, and what hangs round the neck."""
    limbs = look.all_over()
    step = (look.draw(2.9) - 0.5) * 0.07
    for side in (-1, 1):
        x = side * build.body_a * 0.58 + step
        pen.ellipse(x, 0.452, build.foot, 0.052, limbs)
    coat = look.coat(0.0, build.body_y, build.body_a, build.body_b)
    pen.ellipse(0.0, build.body_y, build.body_a, build.body_b, coat)
    emblem(pen, look, 0.0, build.body_y + 0.03, build.body_a * 0.68)
    shoulder = build.body_y - build.body_b * 0.42
    for side in (-1, 1):
        raised = look.draw(3.1 if side < 0 else 4.7)
        angle = 1.35 - 2.3 * raised**1.6  # 1.35 rad hangs down, below 0 points up
        x = side * build.body_a * 0.86
        pen.limb(
            x,
            shoulder,
            x + side * 0.14 * math.cos(angle),
            shoulder + 0.14 * math.sin(angle),
            build.arm,
            limbs,
        )
    at_neck(pen, look, build.head_y + build.head_b * 0.88, build.body_a * 0.98)


def _inner_ear(look: Look) -> Paint:
    return tint(look.colour, (255, 170, 180), 0.7)


def _head(pen: Pen, look: Look, build: Build) -> None:
    paint = look.all_over()
    if look.pattern == "patch":  # one eye in the second colour, as a patched animal has
        paint = Paint(
            ink(look.colour), ink(look.second), Fill.PATCH, 0.13, build.head_y - 0.06, 0.15, 1.1
        )
    pen.ellipse(0.0, build.head_y, build.head_a, build.head_b, paint)
    for side in (-1, 1):
        blush = tint(mix(look.colour, rgb("red"), 0.25), (255, 160, 160), 0.25)
        pen.ellipse(
            side * build.head_a * 0.68, build.head_y + build.head_b * 0.45, 0.045, 0.03, blush,
            line=0.0, alpha=0.0 if look.pattern == "split" else 0.7, solid=False,
        )  # fmt: skip
