"""Places: a sky, a ground and a few large details that vary from seed to seed.

The frame is the picture: x and y in [0, 1], origin top left. Nothing here has an outline, so things
stand out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from compose.world.drawing.palette import mix
from compose.world.drawing.pen import Pen, fade, flat
from compose.world.vocabulary import Colour

Painter = Callable[[Pen, Random, float], None]


def blend(tones: Sequence[Colour], light: float) -> Colour:
    """Colour at `light` in [0, 1) along a list of tones."""
    place = light * (len(tones) - 1)
    first = min(int(place), len(tones) - 2)
    return mix(tones[first], tones[first + 1], place - first)


def sky(pen: Pen, top: Colour, low: Colour, horizon: float) -> None:
    """A vertical gradient over the whole picture."""
    pen.box(0.5, 0.5, 0.6, 0.6, fade(top, low, horizon / 2, horizon / 2))


def ground(pen: Pen, near: Colour, far: Colour, horizon: float) -> None:
    """A plain from the horizon to the lower edge."""
    pen.box(
        0.5,
        (horizon + 1.2) / 2,
        0.7,
        (1.2 - horizon) / 2,
        fade(far, near, (horizon + 1) / 2, (1 - horizon) / 2),
    )


def hill(pen: Pen, x: float, top: float, a: float, b: float, tone: Colour) -> None:
    """The upper part of a large ellipse whose crest is at (x, top)."""
    pen.ellipse(x, top + b, a, b, flat(tone))


def cloud(pen: Pen, x: float, y: float, size: float, tone: Colour) -> None:
    """Three puffs on a flat foot."""
    paint = flat(tone)
    pen.box(x, y + 0.16 * size, 0.62 * size, 0.16 * size, paint, round=0.155 * size)
    pen.ellipse(x - 0.22 * size, y, 0.26 * size, 0.24 * size, paint)
    pen.ellipse(x + 0.16 * size, y - 0.06 * size, 0.33 * size, 0.32 * size, paint)


def clouds(pen: Pen, rng: Random, low: float, tone: Colour) -> None:
    """One or two clouds, on different sides."""
    first = rng.choice((0.2, 0.75))
    for i in range(rng.choice((1, 2, 2))):
        x = (first if i == 0 else 0.95 - first) + rng.uniform(-0.12, 0.12)
        cloud(pen, x, rng.uniform(0.1, low), rng.uniform(0.17, 0.28), tone)


def sun(pen: Pen, rng: Random, light: float, tone: Colour, glow: Colour) -> None:
    """A disc in a halo; where it stands follows the light."""
    x, y = 0.1 + 0.8 * rng.random(), 0.1 + 0.16 * abs(light - 0.4) + rng.uniform(0, 0.05)
    radius = rng.uniform(0.075, 0.1)
    pen.ellipse(x, y, radius * 1.5, radius * 1.5, flat(glow), alpha=0.4)
    pen.ellipse(x, y, radius, radius, flat(tone))


def meadow(pen: Pen, rng: Random, light: float) -> None:
    """Green hills under a blue sky, flowers or bushes."""
    horizon = rng.uniform(0.5, 0.62)
    top = blend(((120, 176, 236), (84, 172, 244), (110, 166, 230), (150, 160, 226)), light)
    low = blend(((250, 226, 190), (206, 236, 252), (222, 240, 246), (252, 214, 190)), light)
    sky(pen, top, low, horizon)
    sun(pen, rng, light, (255, 226, 92), (255, 244, 190))
    clouds(pen, rng, 0.32, (255, 255, 255))
    far, near = blend(((140, 196, 110), (128, 204, 112), (150, 196, 96)), light), (104, 184, 84)
    for side in rng.sample((0.0, 0.45, 1.0), 2):
        hill(
            pen,
            side + rng.uniform(-0.1, 0.1),
            horizon - rng.uniform(0.06, 0.15),
            rng.uniform(0.35, 0.55),
            0.3,
            far,
        )
    ground(pen, mix(near, (60, 150, 62), 0.35), near, horizon)
    if rng.random() < 0.5:
        x = rng.choice((0.06, 0.94)) + rng.uniform(-0.05, 0.05)
        for shift, b in ((-0.07, 0.06), (0.07, 0.055), (0.0, 0.085)):
            pen.ellipse(x + shift, horizon + 0.02, 0.075, b, flat((74, 150, 74)))
    for _ in range(rng.choice((1, 2, 3))):
        _flower(pen, rng.random(), rng.uniform(horizon + 0.12, 0.97), rng.choice(FLOWERS))


FLOWERS: tuple[Colour, ...] = ((255, 250, 236), (255, 214, 84), (250, 160, 190))


def _flower(pen: Pen, x: float, y: float, tone: Colour) -> None:
    for turn in range(3):
        angle = turn * math.pi / 3
        pen.ellipse(x, y, 0.036, 0.015, flat(tone), angle=angle)
    pen.ellipse(x, y, 0.014, 0.014, flat((240, 180, 50)))


def beach(pen: Pen, rng: Random, light: float) -> None:
    """Sea and sand, a sail or a palm."""
    horizon = rng.uniform(0.4, 0.5)
    shore = horizon + rng.uniform(0.14, 0.2)
    top = blend(((106, 190, 240), (92, 196, 246), (150, 190, 240)), light)
    low = blend(((214, 240, 252), (226, 246, 252), (255, 222, 196)), light)
    sky(pen, top, low, horizon)
    sun(pen, rng, light, (255, 232, 110), (255, 248, 206))
    clouds(pen, rng, 0.26, (255, 255, 255))
    sea = blend(((32, 128, 204), (26, 142, 210), (40, 116, 196)), light)
    pen.box(0.5, (horizon + shore) / 2 + 0.05, 0.7, (shore - horizon) / 2 + 0.06, flat(sea))
    if rng.random() < 0.55:
        _sail(pen, rng.uniform(0.1, 0.9), horizon + 0.01, rng.choice(SAILS))
    tilt = rng.uniform(-0.05, 0.05)
    pen.box(0.5, shore + 0.4, 0.8, 0.42, flat((240, 250, 250)), angle=tilt)
    pen.box(
        0.5, shore + 0.43, 0.8, 0.42, fade((250, 226, 168), (234, 198, 132), 0.8, 0.25), angle=tilt
    )
    if rng.random() < 0.55:
        _palm(pen, rng.choice((0.05, 0.95)), shore + 0.06, rng.uniform(0.28, 0.36))


SAILS: tuple[Colour, ...] = ((255, 255, 255), (250, 120, 96), (255, 214, 110))


def _sail(pen: Pen, x: float, y: float, tone: Colour) -> None:
    pen.taper(x, y - 0.065, 0.05, 0.07, 0.0, flat(tone))
    pen.taper(x, y + 0.022, 0.04, 0.02, 0.075, flat((150, 96, 64)))


def _palm(pen: Pen, x: float, y: float, tall: float) -> None:
    lean = 0.06 if x > 0.5 else -0.06
    pen.limb(x, y, x - lean, y - tall, 0.02, flat((150, 108, 70)))
    for angle in (-0.5, 0.35, 1.1, 2.0, 2.8, 3.6):
        dx, dy = 0.1 * math.cos(angle), 0.075 * math.sin(angle)
        tone = flat((64, 156, 84) if dy < 0.03 else (48, 134, 74))
        pen.ellipse(x - lean + dx, y - tall + dy, 0.115, 0.036, tone, angle=math.atan2(dy, dx))


def night(pen: Pen, rng: Random, light: float) -> None:
    """Moon and stars over blue hills."""
    horizon = rng.uniform(0.56, 0.66)
    top = blend(((28, 36, 96), (34, 44, 112), (46, 40, 110)), light)
    low = blend(((92, 104, 186), (110, 120, 200), (130, 110, 190)), light)
    sky(pen, top, low, horizon)
    moon_x = rng.uniform(0.12, 0.88)
    if rng.random() < 0.6:
        pen.moon(
            moon_x,
            0.15,
            0.1,
            0.085,
            0.052,
            flat((255, 244, 190)),
            angle=rng.choice((-1.9, -1.2, 1.2, 1.9)),
        )
    else:
        pen.ellipse(moon_x, 0.15, 0.095, 0.095, flat((255, 246, 206)))
        pen.ellipse(moon_x + 0.03, 0.13, 0.025, 0.025, flat((238, 222, 170)))
        pen.ellipse(moon_x - 0.03, 0.175, 0.018, 0.018, flat((238, 222, 170)))
    for i in range(rng.choice((4, 5, 6))):
        x = (i + rng.uniform(0.2, 0.8)) / 6
        if abs(x - moon_x) > 0.14:
            pen.star(
                x,
                rng.uniform(0.05, 0.4),
                rng.uniform(0.028, 0.038),
                flat((255, 246, 200)),
                inner=0.5,
            )
    for side in rng.sample((0.0, 0.5, 1.0), 2):
        crest = horizon - rng.uniform(0.05, 0.13)
        hill(
            pen, side + rng.uniform(-0.1, 0.1), crest, rng.uniform(0.35, 0.55), 0.3, (66, 112, 128)
        )
    ground(pen, (62, 118, 104), (84, 146, 124), horizon)


def room(pen: Pen, rng: Random, light: float) -> None:
    """Wall and floor boards, a window, a picture, a rug."""
    floor = rng.uniform(0.62, 0.7)
    wall = rng.choice(WALLS)
    pen.box(0.5, 0.5, 0.6, 0.6, fade(mix(wall, (255, 255, 255), 0.25), wall, 0.3, 0.35))
    pen.box(
        0.5,
        (floor + 1.2) / 2,
        0.7,
        (1.2 - floor) / 2,
        fade((206, 152, 104), (182, 124, 80), (floor + 1) / 2, 0.2),
    )
    pen.box(0.5, floor, 0.7, 0.018, flat((250, 244, 234)))
    left = rng.random() < 0.5
    _window(pen, 0.22 if left else 0.78, rng.uniform(0.24, 0.3), light)
    x, tone = 0.8 if left else 0.2, rng.choice(FRAMES)
    if rng.random() < 0.5:
        pen.box(x, 0.25, 0.1, 0.085, flat((150, 100, 62)))
        pen.box(x, 0.25, 0.078, 0.063, flat(tone))
        pen.ellipse(x, 0.26, 0.035, 0.035, flat((255, 248, 230)))
    else:
        pen.limb(x, 0.0, x, 0.14, 0.006, flat((110, 90, 90)))
        pen.taper(x, 0.17, 0.11, 0.055, 0.05, flat(tone))
        pen.ellipse(x, 0.228, 0.04, 0.018, flat((255, 244, 190)))
    pen.ellipse(0.5 + rng.uniform(-0.1, 0.1), 0.9, 0.42, 0.09, flat(rng.choice(RUGS)))


WALLS: tuple[Colour, ...] = ((246, 224, 186), (206, 226, 206), (238, 206, 200), (226, 216, 196))
FRAMES: tuple[Colour, ...] = ((120, 176, 190), (230, 140, 110), (150, 140, 200))
RUGS: tuple[Colour, ...] = ((222, 170, 150), (170, 186, 176), (228, 196, 140))


def _window(pen: Pen, x: float, y: float, light: float) -> None:
    frame = flat((252, 250, 244))
    pane = blend(((150, 206, 244), (176, 224, 248), (250, 206, 160)), light)
    pen.box(x, y, 0.15, 0.165, flat((196, 164, 130)))
    pen.box(x, y, 0.138, 0.153, frame)
    for side in (-1, 1):
        for level in (-1, 1):
            pen.box(x + side * 0.065, y + level * 0.072, 0.054, 0.061, flat(pane))


def snow(pen: Pen, rng: Random, light: float) -> None:
    """White plain, fir trees, large flakes."""
    horizon = rng.uniform(0.52, 0.62)
    top = blend(((142, 170, 206), (156, 188, 220), (168, 170, 206)), light)
    low = blend(((206, 222, 238), (220, 232, 242), (240, 216, 220)), light)
    sky(pen, top, low, horizon)
    for side in rng.sample((0.05, 0.5, 0.95), 2):
        crest = horizon - rng.uniform(0.05, 0.13)
        hill(
            pen, side + rng.uniform(-0.1, 0.1), crest, rng.uniform(0.35, 0.5), 0.3, (206, 220, 236)
        )
    places = rng.sample((0.07, 0.27, 0.5, 0.73, 0.93), rng.choice((1, 2, 2)))
    for x in places:
        _fir(pen, x + rng.uniform(-0.04, 0.04), horizon + 0.05, rng.uniform(0.22, 0.32))
    ground(pen, (222, 232, 244), (240, 246, 252), horizon + 0.01)
    for i in range(7):
        x, y = (i + rng.random()) / 7, rng.uniform(0.04, 0.46)
        pen.ellipse(x, y, 0.019, 0.019, flat((255, 255, 255)))


def _fir(pen: Pen, x: float, y: float, tall: float) -> None:
    pen.box(x, y - tall * 0.06, tall * 0.05, tall * 0.1, flat((112, 82, 64)))
    for level, share in ((0.3, 0.34), (0.55, 0.27), (0.8, 0.2)):
        pen.taper(x, y - tall * level, tall * share, tall * 0.2, 0.0, flat((60, 124, 104)))
    pen.taper(x, y - tall * 0.91, tall * 0.09, tall * 0.09, 0.0, flat((250, 252, 255)))


def desert(pen: Pen, rng: Random, light: float) -> None:
    """Orange dunes, a mesa, cactus."""
    horizon = rng.uniform(0.54, 0.64)
    top = blend(((246, 178, 96), (250, 196, 120), (240, 150, 110)), light)
    low = blend(((255, 228, 170), (255, 236, 190), (255, 212, 160)), light)
    sky(pen, top, low, horizon)
    x, y = rng.uniform(0.12, 0.88), rng.uniform(0.12, 0.3)
    pen.ellipse(x, y, 0.12, 0.12, flat((255, 240, 196)))
    side = rng.choice((0.12, 0.85))
    wide, crest = rng.uniform(0.1, 0.16), horizon - rng.uniform(0.12, 0.18)
    pen.taper(
        side,
        (crest + horizon + 0.1) / 2,
        wide,
        (horizon + 0.1 - crest) / 2,
        wide * 0.7,
        flat((206, 122, 84)),
    )
    hill(pen, 1 - side + rng.uniform(-0.1, 0.1), horizon - 0.06, 0.5, 0.25, (226, 156, 98))
    ground(pen, (216, 152, 88), (236, 180, 112), horizon)
    hill(pen, rng.uniform(0.0, 1.0), rng.uniform(0.74, 0.84), 0.6, 0.3, (226, 164, 96))
    for place in rng.sample((0.07, 0.5, 0.93), rng.choice((1, 2))):
        _cactus(pen, place + rng.uniform(-0.03, 0.03), horizon + 0.06, rng.uniform(0.2, 0.28))


def _cactus(pen: Pen, x: float, y: float, tall: float) -> None:
    paint, wide = flat((92, 150, 84)), tall * 0.14
    pen.limb(x, y, x, y - tall, wide, paint)
    for side, level in ((-1, 0.4), (1, 0.55)):
        reach = x + side * tall * 0.32
        pen.limb(x, y - tall * level, reach, y - tall * level, wide * 0.75, paint)
        pen.limb(reach, y - tall * level, reach, y - tall * (level + 0.25), wide * 0.75, paint)
