"""Many pictures in one, in labelled rows and columns."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_SMALLEST, _LARGEST = 192, 512  # shown side of a cell, in pixels
PAPER, INK, PALE = (255, 255, 255), (24, 26, 30), (110, 114, 122)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """A picture and its place, both counted from 0."""

    row: int
    column: int
    image: Image.Image


def draw_grid(
    cells: Sequence[Cell],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    subtitle: str = "",
) -> Image.Image:
    """Lay pictures of one size out under labels.

    Small pictures are enlarged by a whole factor without smoothing, large ones reduced, so that a
    cell is about 200 to 500 pixels wide.

    Args:
        cells: at least one; a place without a cell stays empty.
        rows, columns: labels.
        title, subtitle: lines above, cut off where they are too long.

    Returns:
        RGB.
    """
    width, height = shown_size(cells[0].image.size)
    size = max(14, width // 14)
    big, small = ImageFont.load_default(size), ImageFont.load_default(max(12, size * 3 // 4))
    gap = max(10, width // 24)
    left = 2 * gap + math.ceil(max(small.getlength(label) for label in rows))
    top = 5 * gap + 3 * size
    lefts = [left + number * (width + gap) for number in range(len(columns))]
    tops = [top + number * (height + gap) for number in range(len(rows))]
    sheet = Image.new("RGB", (lefts[-1] + width + gap, tops[-1] + height + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * gap
    draw.text((gap, gap), fitted(title, big, room), INK, big)
    draw.text((gap, 2 * gap + size), fitted(subtitle, small, room), PALE, small)
    for x, label in zip(lefts, columns, strict=True):
        place = (x + width / 2, top - gap)
        draw.text(place, fitted(label, small, width), INK, small, anchor="md")
    for y, label in zip(tops, rows, strict=True):
        draw.text((left - gap, y + height / 2), label, INK, small, anchor="rm")
    for cell in cells:
        picture = _resized(cell.image, (width, height))
        sheet.paste(picture, (lefts[cell.column], tops[cell.row]))
    return sheet


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """How large a picture of some size is shown, in pixels."""
    width, height = size
    longest = max(size)
    if longest < _SMALLEST:
        factor = math.ceil(_SMALLEST / longest)
        return width * factor, height * factor
    if longest > _LARGEST:
        return (
            max(1, round(width * _LARGEST / longest)),
            max(1, round(height * _LARGEST / longest)),
        )
    return width, height


def fitted(text: str, font: Font, room: float) -> str:
    """A text on one line, cut off with an ellipsis where it is wider than `room` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    ends = range(1, len(text) + 1)
    end = bisect_right(ends, room, key=lambda n: font.getlength(text[:n] + "..."))
    return text[:end].rstrip() + "..."


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    image = image.convert("RGB")
    larger = size[0] >= image.width
    method = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    return image if size == image.size else image.resize(size, method)
