"""The two places that only concepts name: candy land and the moon."""

from __future__ import annotations

from random import Random

from compose.world.drawing.backgrounds import blend, cloud, ground, sky
from compose.world.drawing.palette import ink
from compose.world.drawing.pen import Fill, Paint, Pen, flat
from compose.world.vocabulary import Colour

SWEETS: tuple[Colour, ...] = ((250, 92, 140), (120, 206, 220), (255, 196, 92), (166, 132, 226))


def candy(pen: Pen, rng: Random, light: float) -> None:
    """Pink sky, striped hills, lollipops."""
    horizon = rng.uniform(0.54, 0.64)
    top = blend(((255, 166, 200), (248, 176, 220), (255, 160, 180)), light)
    sky(pen, top, (255, 228, 226), horizon)
    cloud(pen, rng.choice((0.2, 0.8)), rng.uniform(0.12, 0.26), 0.26, (255, 250, 244))
    first, other = rng.sample(SWEETS, 2)
    for side, tone in ((0.12, first), (0.88, other)):
        x, crest = side + rng.uniform(-0.1, 0.1), horizon - rng.uniform(0.08, 0.16)
        stripes = Paint(
            ink((255, 246, 244)),
            ink(tone),
            Fill.STRIPES,
            x,
            crest,
            0.13,
            0.5,
            rng.uniform(0.3, 0.8),
        )
        pen.ellipse(x, crest + 0.28, 0.42, 0.28, stripes)
    left = rng.random() < 0.5
    for x, tall in ((0.1 if left else 0.9, 0.4), (0.55 if left else 0.45, 0.28)):
        _lollipop(pen, x + rng.uniform(-0.04, 0.04), horizon + 0.06, tall, rng.choice(SWEETS))
    ground(pen, (146, 216, 192), (186, 238, 216), horizon)


def _lollipop(pen: Pen, x: float, y: float, tall: float, tone: Colour) -> None:
    pen.limb(x, y, x, y - tall, 0.014, flat((255, 252, 246)))
    radius = tall * 0.32
    pen.ellipse(x, y - tall, radius, radius, flat(tone))
    white = flat((255, 250, 246))
    pen.arc(x, y - tall, radius * 0.62, 2.2, 0.6, radius * 0.14, white)
    pen.ellipse(x, y - tall, radius * 0.2, radius * 0.2, white)


def moon(pen: Pen, rng: Random, light: float) -> None:
    """Black sky, gray ground with craters, the Earth, a dome of the base."""
    horizon = rng.uniform(0.54, 0.64)
    sky(pen, (26, 22, 44), blend(((62, 50, 92), (50, 54, 96), (76, 52, 96)), light), horizon)
    left = rng.random() < 0.5
    earth_x, earth_y = (0.2 if left else 0.8) + rng.uniform(-0.06, 0.06), rng.uniform(0.16, 0.24)
    pen.ellipse(earth_x, earth_y, 0.125, 0.125, flat((70, 150, 226)))
    pen.ellipse(earth_x - 0.04, earth_y - 0.03, 0.055, 0.045, flat((98, 186, 120)), angle=0.5)
    pen.ellipse(earth_x + 0.055, earth_y + 0.045, 0.04, 0.035, flat((98, 186, 120)))
    for i in range(5):
        x = (i + rng.uniform(0.2, 0.8)) / 5
        if abs(x - earth_x) > 0.16:
            pen.ellipse(x, rng.uniform(0.05, 0.42), 0.012, 0.012, flat((255, 255, 255)))
    pen.ellipse(rng.uniform(0.2, 0.8), horizon + 0.22, 0.7, 0.28, flat((150, 150, 162)))
    dome = (0.84 if left else 0.16) + rng.uniform(-0.05, 0.05)
    pen.ellipse(dome, horizon + 0.02, 0.13, 0.15, flat((222, 226, 236)))
    pen.ellipse(dome, horizon - 0.03, 0.05, 0.045, flat((120, 200, 226)))
    ground(pen, (172, 172, 182), (196, 196, 204), horizon)
    for x, y, a in ((0.16, 0.1, 0.11), (0.8, 0.16, 0.14), (0.45, 0.3, 0.17)):
        at_x, at_y = x + rng.uniform(-0.1, 0.1), horizon + y + rng.uniform(-0.03, 0.03)
        pen.ellipse(at_x, at_y, a, a * 0.36, flat((140, 140, 152)))
        pen.ellipse(at_x, at_y + 0.012, a * 0.86, a * 0.29, flat((158, 158, 170)))
