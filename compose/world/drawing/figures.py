"""Bird and robot."""

from __future__ import annotations

import math

from compose.world.drawing import face
from compose.world.drawing.accessories import at_neck, behind, hides_antenna, on_head
from compose.world.drawing.palette import ink, rgb
from compose.world.drawing.patterns import Look, emblem
from compose.world.drawing.pen import Fill, Paint, Pen, flat

STEEL = flat((150, 158, 172), 0.12)
IRON = flat((84, 90, 106), 0.1)


def bird(pen: Pen, look: Look) -> None:
    """Egg-shaped body with wings, an orange beak, a tuft, thin legs."""
    behind(pen, look, 0.06, 0.25, 0.42)
    paint = look.all_over()
    for side in (-1, 1):
        pen.limb(side * 0.1, 0.36, side * 0.11, 0.46, 0.018, face.BEAK, line=0.8)
        pen.ellipse(side * 0.125, 0.472, 0.075, 0.026, face.BEAK, line=0.8)
    for turn in (-0.5, 0.0, 0.5):
        pen.ellipse(0.09 * math.sin(turn), -0.43, 0.036, 0.085, look.dark, angle=turn)
    for side in (-1, 1):
        angle = 0.25 + 1.5 * look.draw(3.1 if side < 0 else 4.7) ** 1.4
        x, y = side * (0.23 + 0.13 * math.sin(angle)), 0.06 + 0.15 * math.cos(angle)
        pen.ellipse(x, y, 0.085, 0.19, look.dark, angle=-side * angle)
    pen.ellipse(0.0, 0.15, 0.27, 0.255, look.coat(0.0, 0.17, 0.25, 0.23))
    emblem(pen, look, 0.0, 0.2, 0.165)
    at_neck(pen, look, 0.04, 0.235)
    if look.pattern == "patch":
        paint = Paint(ink(look.colour), ink(look.second), Fill.PATCH, 0.12, -0.22, 0.14, 1.1)
    pen.ellipse(0.0, -0.17, 0.25, 0.215, paint)
    face.eyes(pen, look, 0.112, -0.2, 0.088, 0.1)
    pen.taper(0.0, -0.07, 0.0, 0.062, 0.085, face.BEAK, round=0.015, line=0.8)
    on_head(pen, look, -0.365, 0.18, (look.draw(2.3) - 0.5) * 0.24)


def robot(pen: Pen, look: Look) -> None:
    """Boxes with steel limbs, ear bolts, an antenna with a lamp."""
    behind(pen, look, 0.05, 0.23, 0.48)
    for side in (-1, 1):
        pen.box(side * 0.12, 0.42, 0.055, 0.06, STEEL)
        pen.box(side * 0.135, 0.47, 0.085, 0.03, IRON, round=0.02)
    _robot_arms(pen, look)
    pen.box(0.0, 0.225, 0.225, 0.19, look.coat(0.0, 0.23, 0.225, 0.19), round=0.035)
    emblem(pen, look, 0.0, 0.235, 0.155)
    at_neck(pen, look, 0.05, 0.22)
    if not hides_antenna(look):
        lean = (look.draw(6.7) - 0.5) * 0.16
        pen.limb(0.0, -0.34, lean, -0.43, 0.014, IRON, line=0.8)
        pen.ellipse(
            lean, -0.445, 0.048, 0.048, flat(rgb("yellow") if look.colour[0] > 180 else rgb("red"))
        )
    for side in (-1, 1):
        pen.box(side * 0.29, -0.15, 0.035, 0.075, STEEL, round=0.015)
    paint = look.all_over()
    if look.pattern == "patch":
        paint = Paint(ink(look.colour), ink(look.second), Fill.PATCH, 0.12, -0.19, 0.13, 1.1)
    pen.box(0.0, -0.15, 0.27, 0.195, paint, round=0.06)
    face.eyes(pen, look, 0.122, -0.185, 0.094, 0.098)
    pen.box(0.0, -0.022, 0.13, 0.034, flat((236, 240, 246)), round=0.02, line=0.7, solid=False)
    for at in (-0.045, 0.045):
        pen.limb(at, -0.045, at, 0.0, 0.006, face.DARK, line=0.0, solid=False)
    on_head(pen, look, -0.335, 0.19, (look.draw(2.3) - 0.5) * 0.16)


def _robot_arms(pen: Pen, look: Look) -> None:
    for side in (-1, 1):
        raised = look.draw(3.1 if side < 0 else 4.7)
        angle = 1.35 - 2.3 * raised**1.6
        x, y = side * (0.24 + 0.14 * math.cos(angle)), 0.13 + 0.16 * math.sin(angle)
        pen.limb(side * 0.22, 0.13, x, y, 0.036, STEEL)
        pen.ellipse(x, y, 0.058, 0.058, IRON)
