"""Colours: words and hex codes to RGB, shades of one colour, contrast."""

from __future__ import annotations

from functools import lru_cache

from compose.world.vocabulary import COLOURS, Colour

OUTLINE: Colour = (22, 18, 27)
CREAM: Colour = (252, 246, 230)
COAL: Colour = (58, 48, 60)
WHITE: Colour = (255, 255, 255)


@lru_cache(maxsize=512)
def rgb(name: str) -> Colour:
    """RGB of a colour word or of a code such as ``#20a8a0``.

    Raises:
        KeyError: a word that is not in the vocabulary.
        ValueError: a code that is not six hexadecimal digits.
    """
    if name.startswith("#"):
        if len(name) != 7:
            raise ValueError(f"colour {name!r}: expected six hexadecimal digits such as #20a8a0")
        return (int(name[1:3], 16), int(name[3:5], 16), int(name[5:7], 16))
    return COLOURS[name]


def ink(colour: Colour) -> float:
    """A colour as one number that float32 holds exactly: 65536 r + 256 g + b."""
    return float(colour[0] << 16 | colour[1] << 8 | colour[2])


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the second colour in the first, share in [0, 1]."""
    r, g, b = (round(p + (q - p) * share) for p, q in zip(first, second, strict=True))
    return (r, g, b)


def luminance(colour: Colour) -> float:
    """Brightness in [0, 1] (Rec. 601 weights)."""
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255


@lru_cache(maxsize=512)
def darker(colour: Colour, share: float = 0.3) -> Colour:
    """A shadow of the colour, or a lighter tone of a very dark one, so that parts stay apart."""
    if luminance(colour) < 0.2:
        return mix(colour, (150, 150, 175), share * 0.75)
    return mix(colour, (36, 18, 52), share)


@lru_cache(maxsize=512)
def paler(colour: Colour, share: float = 0.6) -> Colour:
    """A light tone of the colour, for muzzles and inner ears."""
    return mix(colour, (255, 244, 228), share)


@lru_cache(maxsize=512)
def contrast(colour: Colour) -> Colour:
    """Second colour where none is named: cream on darker colours, coal on light ones."""
    return CREAM if luminance(colour) < 0.56 else COAL
