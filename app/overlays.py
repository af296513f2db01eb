"""Maps over a picture: one in a colour of its own, or several mixed. Pixels only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Colour = tuple[int, int, int]
Pixels = NDArray[np.float64]

_FIRST: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
"""Colours that people who confuse red and green can tell apart (Okabe and Ito 2008)."""
_TURN = 0.618034
"""Golden section of the circle of hues: many hues, none close to the ones before."""
OPAQUE = 0.85
"""How much of the picture a map covers where it is strongest, if nothing else is said."""
_LINE = 2
"""Width of a border, in pixels."""
_SPAN = range(-_LINE, _LINE + 1)
_GREY = np.array([0.299, 0.587, 0.114])
_PAPER = 0.35
"""How much white is mixed into the picture under a map."""


def colour(k: int) -> Colour:
    """The colour of adapter `k`."""
    if k < len(_FIRST):
        return _FIRST[k]
    red, green, blue = colorsys.hsv_to_rgb((k * _TURN) % 1, 0.75, 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlaid(
    picture: Image.Image,
    maps: Tensor,
    colours: Sequence[Colour],
    size: tuple[int, int],
    *,
    smooth: bool = True,
    opaque: float = OPAQUE,
) -> Image.Image:
    """Maps in their colours over a pale grey picture.

    Args:
        picture: RGB.
        maps: [K, h, w] in [0, 1], on any grid. Where several are above zero their colours mix in
            proportion, as strong as all of them together.
        colours: [K].
        size: width and height of what comes back, in pixels.
        smooth: whether cells of the grid run into one another.
        opaque: how much of the picture a map of one covers, in [0, 1].
    """
    shown = np.stack([_on(m, size, smooth) for m in maps])  # [K, height, width]
    total = shown.sum(axis=0)
    parts = shown / np.maximum(total, 1e-9)
    tint = np.tensordot(parts, np.array(colours, np.float64), axes=(0, 0))
    cover = opaque * np.minimum(total, 1)[..., None]
    return _image(pale(picture, size) * (1 - cover) + tint * cover)


def outlined(image: Image.Image, region: Tensor, hue: Colour) -> Image.Image:
    """A picture with the border of a region [h, w] drawn in, where it is half as strong as at its
    strongest.
    """
    inside = _on(region, image.size, smooth=False) >= region.max().item() / 2
    near = np.pad(inside, _LINE, mode="edge")
    shifts = [np.roll(near, (y, x), (0, 1)) for y in _SPAN for x in _SPAN]
    border = inside & ~np.logical_and.reduce(shifts)[_LINE:-_LINE, _LINE:-_LINE]
    pixels = np.asarray(image, np.float64).copy()
    pixels[border] = hue
    return _image(pixels)


def pale(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    """A picture in light greys, [height, width, 3] from 0 to 255."""
    grey = np.asarray(enlarged(picture, size), np.float64) @ _GREY
    return np.repeat((grey * (1 - _PAPER) + 255 * _PAPER)[..., None], 3, axis=2)


def enlarged(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture of another size: no smoothing on the way up, all pixels count on the way down."""
    picture = picture.convert("RGB")
    up = size[0] >= picture.width
    return picture.resize(size, Image.Resampling.NEAREST if up else Image.Resampling.LANCZOS)


def scale(hue: Colour, size: tuple[int, int]) -> Image.Image:
    """A bar of a given width and height: what values from 0 to 1 look like over white."""
    ramp = np.linspace(0, OPAQUE, size[0])[None, :, None]
    row = 255 * (1 - ramp) + np.array(hue, np.float64) * ramp
    return _image(np.repeat(row, size[1], axis=0))


def _on(values: Tensor, size: tuple[int, int], smooth: bool) -> Pixels:
    """A map on the pixels of a picture of some size, [height, width]."""
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    image = Image.fromarray(values.float().numpy())  # mode F
    return np.asarray(image.resize(size, how), np.float64).clip(0, 1)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
