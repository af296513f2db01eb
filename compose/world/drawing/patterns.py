"""Patterns as paint: the coat of a body, and the emblem on it."""

from __future__ import annotations

from typing import NamedTuple

from compose.world.drawing.palette import contrast, darker, ink, mix, paler, rgb
from compose.world.drawing.pen import Fill, Paint, Pen, flat
from compose.world.scene import Thing
from compose.world.vocabulary import Colour

SHADE = 0.07
STRIPE_ANGLE = 0.5


class Look(NamedTuple):
    """Everything that the drawing of one thing needs to know about its colours and its pose."""

    colour: Colour
    second: Colour
    pattern: str
    accessory: str
    wear: Colour
    pose: float
    main: Paint
    dark: Paint
    pale: Paint

    def draw(self, turn: float) -> float:
        """A number in [0, 1) that varies with the pose, another one for every `turn`."""
        return (self.pose * turn + turn * 0.37) % 1.0

    def coat(self, x: float, y: float, a: float, b: float) -> Paint:
        """Paint of a body part whose middle is (x, y) and whose half axes are a, b."""
        return coat(self.pattern, self.colour, self.second, x, y, a, b)

    def all_over(self, x: float = 0.0) -> Paint:
        """Paint of the head and limbs: the main colour, but both halves of a split thing."""
        if self.pattern != "split":
            return self.main
        return coat("split", self.colour, self.second, x, 0.0, 1.0, 1.0)


def look_of(thing: Thing) -> Look:
    """Colours and pose of a thing."""
    colour = rgb(thing.colour)
    second = rgb(thing.second) if thing.second else contrast(colour)
    if thing.pattern == "split" and thing.flip:  # the main colour is the one on the left, always
        colour, second = second, colour
    wear = rgb(thing.accessory_colour) if thing.accessory_colour else (214, 39, 40)
    return Look(
        colour, second, thing.pattern, thing.accessory, wear, thing.pose,
        flat(colour, SHADE), flat(darker(colour), SHADE), flat(paler(colour), SHADE),
    )  # fmt: skip


def coat(
    pattern: str, colour: Colour, second: Colour, x: float, y: float, a: float, b: float
) -> Paint:
    """Paint of a body with this pattern; emblems are drawn on top of a plain one."""
    one, two = ink(colour), ink(second)
    if pattern == "striped":
        return Paint(one, two, Fill.STRIPES, x, y, a * 0.78, 0.46, STRIPE_ANGLE, SHADE)
    if pattern == "spotted":
        return Paint(one, two, Fill.SPOTS, x, y, a * 0.86, 0.27, 0.0, SHADE)
    if pattern == "split":
        return Paint(one, two, Fill.SPLIT, x, y, 1.0, 0.5, 0.0, SHADE)
    if pattern == "checker":
        return Paint(one, two, Fill.CHECKER, x, y, a * 0.6, 0.5, 0.0, SHADE)
    if pattern == "bands":
        return Paint(one, two, Fill.STRIPES, x, y + b * 0.06, b * 0.86, 0.5, 1.5708, SHADE)
    if pattern == "patch":
        return Paint(one, two, Fill.PATCH, x + a * 0.42, y + b * 0.2, a * 0.86, 0.95, 0.0, SHADE)
    return flat(colour, SHADE)


def emblem(pen: Pen, look: Look, x: float, y: float, a: float) -> None:
    """Star or heart of half width a, if the pattern is one."""
    if look.pattern == "star":
        pen.star(
            x,
            y + a * 0.06,
            a * 1.08,
            flat(look.second),
            inner=0.54,
            round=a * 0.08,
            line=0.7,
            solid=False,
        )
    elif look.pattern == "heart":
        pen.heart(x, y, a, flat(look.second), line=0.7, solid=False)


def tint(colour: Colour, towards: Colour, share: float) -> Paint:
    """Plain paint of a mixed colour."""
    return flat(mix(colour, towards, share))
