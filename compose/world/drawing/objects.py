"""Car, house, tree, mug, ball, and the two that only concepts name: rocket, cake."""

from __future__ import annotations

import math

from compose.world.drawing.face import DARK, EYE_WHITE
from compose.world.drawing.palette import darker, mix, rgb
from compose.world.drawing.patterns import Look, emblem, tint
from compose.world.drawing.pen import Pen, flat

GLASS = flat((176, 220, 244), -0.1)
TYRE = flat((52, 48, 58))
HUB = flat((206, 210, 218))
WOOD = flat((128, 84, 52), 0.1)
LAMP = flat((255, 236, 130))
CREAM = flat((255, 246, 226), 0.04)


def car(pen: Pen, look: Look) -> None:
    """Seen from the side: cabin with two windows, long body, two wheels."""
    paint = look.coat(0.0, 0.17, 0.27, 0.2)
    pen.taper(-0.03, -0.1, 0.32, 0.19, 0.2, look.all_over(), round=0.06)
    for x, lean in ((-0.145, 0.1), (0.085, -0.1)):
        pen.taper(
            x, -0.09, 0.115, 0.11, 0.08, GLASS, round=0.025, angle=lean * 0.6, line=0.8, solid=False
        )
    pen.box(0.0, 0.19, 0.5, 0.185, paint, round=0.11)
    emblem(pen, look, -0.02, 0.17, 0.17)
    pen.ellipse(0.44, 0.15, 0.045, 0.055, LAMP, line=0.8, solid=False)
    for x in (-0.29, 0.29):
        pen.ellipse(x, 0.36, 0.135, 0.135, TYRE)
        pen.ellipse(x, 0.36, 0.062, 0.062, HUB, line=0.0, solid=False)


def house(pen: Pen, look: Look) -> None:
    """Wall with a door and a window, roof in a darker tone, chimney."""
    pen.box(0.2, -0.32, 0.058, 0.14, flat(mix(look.colour, (110, 80, 80), 0.65)))
    wall = look.coat(0.0, 0.2, 0.3, 0.27)
    pen.box(0.0, 0.19, 0.34, 0.3, wall, round=0.01)
    emblem(pen, look, 0.11, 0.17, 0.175)
    pen.box(-0.17, 0.3, 0.095, 0.19, WOOD, round=0.03, solid=False)
    pen.ellipse(-0.115, 0.31, 0.018, 0.018, LAMP, line=0.0, solid=False)
    if look.pattern not in ("star", "heart"):
        pen.box(0.15, 0.17, 0.095, 0.095, GLASS, round=0.015, solid=False)
        pen.box(0.15, 0.17, 0.008, 0.09, DARK, line=0.0, solid=False)
        pen.box(0.15, 0.17, 0.09, 0.008, DARK, line=0.0, solid=False)
    roof = flat(darker(look.colour, 0.42), 0.1)
    pen.taper(0.0, -0.29, 0.46, 0.205, 0.03, roof, round=0.03)


def tree(pen: Pen, look: Look) -> None:
    """Trunk and a crown of round lobes."""
    pen.taper(0.0, 0.33, 0.105, 0.17, 0.075, WOOD, round=0.02)
    sway = (look.draw(3.7) - 0.5) * 0.05
    crown = look.coat(sway, -0.12, 0.34, 0.33)
    lobes = (
        (-0.2, 0.0, 0.19, 0.17), (0.2, 0.0, 0.19, 0.17), (-0.17, -0.2, 0.19, 0.17),
        (0.17, -0.2, 0.19, 0.17), (0.0, -0.31, 0.19, 0.17), (0.0, -0.08, 0.26, 0.2),
    )  # fmt: skip
    for x, y, a, b in lobes:
        pen.ellipse(x + sway, y, a, b, look.main)
    for x, y, a, b in lobes:
        pen.ellipse(x + sway, y, a, b, crown._replace(shade=0.0), line=0.0, grow=-1.7, solid=False)
    emblem(pen, look, sway, -0.12, 0.22)


def mug(pen: Pen, look: Look) -> None:
    """Cup with a handle, steam above."""
    pen.arc(0.27, 0.12, 0.15, 1.75, 0.0, 0.05, look.main)
    pen.taper(-0.04, 0.12, 0.29, 0.34, 0.33, look.coat(-0.04, 0.15, 0.31, 0.3), round=0.07)
    emblem(pen, look, -0.04, 0.16, 0.2)
    pen.ellipse(-0.04, -0.19, 0.335, 0.085, tint(look.colour, (255, 255, 255), 0.35))
    pen.ellipse(-0.04, -0.175, 0.255, 0.052, flat((96, 58, 40)), line=0.0, solid=False)
    lean = 1 if look.draw(3.7) < 0.5 else -1
    for x in (-0.14, 0.06):
        pen.arc(x, -0.33, 0.08, 0.9, 0.0 if lean > 0 else math.pi, 0.026, EYE_WHITE, line=0.7)


def ball(pen: Pen, look: Look) -> None:
    """Round, with a shine and two seams."""
    coat = look.coat(0.0, 0.04, 0.36, 0.4)
    pen.ellipse(0.0, 0.05, 0.44, 0.44, coat)
    turn = (look.draw(3.7) - 0.5) * 0.9
    if look.pattern == "plain":
        seam = flat(darker(look.colour, 0.45))
        for side in (0.0, math.pi):
            x, y = -0.6 * math.cos(turn + side), 0.05 - 0.6 * math.sin(turn + side)
            pen.arc(x, y, 0.42, 0.72, turn + side, 0.012, seam, line=0.0, solid=False)
    emblem(pen, look, 0.0, 0.06, 0.27)
    pen.ellipse(-0.19, -0.17, 0.1, 0.06, EYE_WHITE, angle=-0.7, line=0.0, alpha=0.85, solid=False)


def rocket(pen: Pen, look: Look) -> None:
    """Pointed hull with fins, a round window and a flame."""
    flame = (look.draw(3.7) - 0.5) * 0.06
    pen.taper(0.0, 0.41 + flame, 0.0, 0.1, 0.13, flat((250, 150, 40)), round=0.015)
    pen.taper(0.0, 0.37 + flame, 0.0, 0.06, 0.07, LAMP, line=0.0, solid=False)
    for side in (-1, 1):
        pen.taper(side * 0.22, 0.22, 0.11, 0.15, 0.0, look.dark, round=0.02, angle=-side * 0.35)
    pen.ellipse(0.0, -0.05, 0.22, 0.43, look.coat(0.0, 0.05, 0.2, 0.34))
    pen.box(0.0, 0.31, 0.13, 0.032, look.dark, round=0.015)
    pen.taper(0.0, -0.385, 0.145, 0.105, 0.0, look.dark, round=0.03)
    emblem(pen, look, 0.0, 0.16, 0.13)
    pen.ellipse(0.0, -0.09, 0.12, 0.12, EYE_WHITE, solid=False)
    pen.ellipse(0.0, -0.09, 0.08, 0.08, GLASS, line=0.7, solid=False)


def cake(pen: Pen, look: Look) -> None:
    """Two tiers with cream on top, a candle."""
    pen.box(0.0, 0.43, 0.47, 0.035, flat((226, 228, 236), 0.1), round=0.03)
    pen.box(0.0, 0.265, 0.4, 0.145, look.coat(0.0, 0.27, 0.24, 0.17), round=0.04)
    _icing(pen, 0.15, 0.4, 5)
    pen.box(0.0, -0.03, 0.26, 0.125, look.coat(0.0, -0.03, 0.2, 0.15), round=0.04)
    _icing(pen, -0.13, 0.26, 4)
    emblem(pen, look, 0.0, 0.2, 0.2)
    pen.box(0.0, -0.28, 0.05, 0.1, flat(rgb("white")), line=0.8)
    lean = (look.draw(3.7) - 0.5) * 0.3
    pen.ellipse(lean * 0.1, -0.42, 0.05, 0.075, flat((252, 170, 40)), angle=lean, line=0.8)


def _icing(pen: Pen, y: float, a: float, drops: int) -> None:
    """A layer of cream over a tier of half width a."""
    half = a / drops
    places = [(-a + half * (2 * i + 1), 0.045 + 0.02 * (i % 2)) for i in range(drops)]
    for x, b in places:
        pen.ellipse(x, y + 0.055, half, b, CREAM, line=0.8)
    pen.box(0.0, y, a + 0.015, 0.055, CREAM, round=0.05)
    for x, b in places:
        pen.ellipse(x, y + 0.055, half, b, CREAM, line=0.0, grow=-1.3, solid=False)
