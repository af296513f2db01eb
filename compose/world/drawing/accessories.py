"""What animals wear. Each piece is drawn at the place that the figure names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compose.world.drawing.palette import CREAM, contrast, darker, luminance, rgb
from compose.world.drawing.patterns import Look
from compose.world.drawing.pen import Pen, flat

BRASS = rgb("yellow")


@contextmanager
def _marked(pen: Pen) -> Iterator[None]:
    """Note the rows that are written meanwhile as those of an accessory."""
    first = len(pen.rows)
    yield
    pen.worn.extend(range(first, len(pen.rows)))


def behind(pen: Pen, look: Look, neck: float, a: float, foot: float) -> None:
    """The part of an accessory that lies behind the figure: the cape.

    Args:
        neck, foot: y of the neck and of the feet.
        a: half width of the body.
    """
    if look.accessory != "cape":
        return
    sway = (look.draw(4.1) - 0.5) * 0.08
    middle, half = (neck + foot) / 2 - 0.02, (foot - neck) / 2
    cloth = flat(look.wear, 0.14)
    with _marked(pen):
        pen.taper(sway, middle, max(a * 2.1, 0.47), half, a * 1.3, cloth, round=0.05, angle=sway)


def at_neck(pen: Pen, look: Look, y: float, a: float) -> None:
    """Scarf, or the collar and clasp of a cape; a is the half width of the neck."""
    with _marked(pen):
        if look.accessory == "scarf":
            _scarf(pen, look, y, a)
        elif look.accessory == "cape":
            _collar(pen, look, y, a)


def _scarf(pen: Pen, look: Look, y: float, a: float) -> None:
    cloth = flat(look.wear, 0.1)
    side = 1 if look.draw(3.3) < 0.5 else -1
    pen.box(side * a * 0.5, y + 0.11, 0.062, 0.115, cloth, round=0.025, angle=-side * 0.18)
    hem = flat(darker(look.wear))
    pen.box(
        side * (a * 0.5 + 0.018), y + 0.19, 0.062, 0.022, hem, angle=-side * 0.18,
        line=0.0, grow=-1.2, solid=False,
    )  # fmt: skip
    pen.box(0.0, y, a, 0.066, cloth, round=0.062)


def _collar(pen: Pen, look: Look, y: float, a: float) -> None:
    cloth, clasp = flat(look.wear, 0.1), flat(BRASS if luminance(look.wear) < 0.6 else CREAM)
    for side in (-1, 1):
        pen.ellipse(side * a * 0.55, y + 0.005, a * 0.62, 0.055, cloth, angle=side * 0.25)
    pen.ellipse(0.0, y + 0.03, 0.05, 0.05, clasp, solid=False)


def on_head(pen: Pen, look: Look, y: float, a: float, lean: float = 0.0) -> None:
    """Hat, crown or wizard hat; y is the top of the head, a half its width."""
    with _marked(pen):
        if look.accessory == "hat":
            _top_hat(pen, look, y, a, lean)
        elif look.accessory == "crown":
            _crown(pen, look, y, a)
        elif look.accessory == "wizard":
            _wizard(pen, look, y, a, lean)


def _top_hat(pen: Pen, look: Look, y: float, a: float, lean: float) -> None:
    cloth, band = flat(look.wear, 0.1), flat(_trim(look))
    pen.taper(lean * 0.5, y - 0.07, a * 0.58, 0.115, a * 0.66, cloth, round=0.02, angle=lean)
    pen.box(lean * 0.2, y + 0.0, a * 0.58, 0.03, band, angle=lean, line=0.0, grow=-1.0, solid=False)
    pen.box(0.0, y + 0.045, a * 1.0, 0.034, cloth, round=0.033, angle=lean)


def _crown(pen: Pen, look: Look, y: float, a: float) -> None:
    metal = flat(look.wear, 0.1)
    for at, tall in ((-0.62, 0.085), (0.62, 0.085), (0.0, 0.105)):
        pen.taper(at * a * 0.9, y - 0.05, a * 0.33, tall, 0.0, metal, round=0.012, angle=at * 0.22)
    pen.box(0.0, y + 0.018, a * 0.86, 0.05, metal, round=0.012)
    for at, tall in ((-0.62, 0.085), (0.62, 0.085), (0.0, 0.105)):
        pen.taper(
            at * a * 0.9,
            y - 0.05,
            a * 0.33,
            tall,
            0.0,
            metal,
            angle=at * 0.22,
            line=0.0,
            grow=-1.7,
            solid=False,
        )
    pen.ellipse(0.0, y + 0.016, 0.03, 0.03, flat(_trim(look)), line=0.0, solid=False)


def _wizard(pen: Pen, look: Look, y: float, a: float, lean: float) -> None:
    cloth = flat(look.wear, 0.16)
    pen.taper(lean * 0.6, y - 0.15, a * 0.82, 0.2, 0.0, cloth, round=0.02, angle=lean)
    pen.ellipse(0.0, y + 0.045, a * 1.28, 0.052, cloth, angle=lean)
    star = BRASS if luminance(look.wear) < 0.6 else rgb("purple")
    pen.star(lean * 0.45, y - 0.085, 0.088, flat(star), inner=0.5, line=0.0, solid=False)


def _trim(look: Look) -> tuple[int, int, int]:
    return contrast(look.wear)


def hides_antenna(look: Look) -> bool:
    """Whether what sits on the head leaves no room for an antenna."""
    return look.accessory in ("hat", "crown", "wizard")
