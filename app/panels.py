"""A sheet of labelled pictures with captions and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .grid import INK, PALE, PAPER, Font, fitted
from .overlays import Colour, scale

_BLANK = (246, 246, 247)
_CAPTION = 2
"""Lines under a panel."""


@dataclass(frozen=True)
class Panel:
    """A picture, all of one size, or None for an empty place; and lines under it."""

    image: Image.Image | None
    caption: str


@dataclass(frozen=True)
class Row:
    """Panels side by side under one label."""

    label: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Heading:
    """Name of a column; with a colour, a scale from weak to strong stands before it."""

    text: str
    hue: Colour | None = None


class _Style(NamedTuple):
    """Fonts, the height of their lines, and the gap between things, in pixels."""

    big: Font
    small: Font
    tall: int
    line: int
    gap: int


def draw_panels(
    rows: Sequence[Row],
    headings: Sequence[Heading],
    size: tuple[int, int],
    *,
    title: str,
    subtitle: str,
    notes: Sequence[str],
) -> Image.Image:
    """Lay panels out.

    Args:
        rows: at least one; a panel for every heading.
        headings: of the columns.
        size: width and height of a panel's picture, in pixels.
        title: above; wrapped, at most three lines of it.
        subtitle: a line under it, cut off where it is too long.
        notes: below; wrapped.

    Returns:
        RGB.
    """
    width, height = size
    style = _style(width)
    gap, line = style.gap, style.line
    left = 2 * gap + math.ceil(max(style.small.getlength(row.label) for row in rows))
    lefts = [left + number * (width + gap) for number in range(len(headings))]
    total = lefts[-1] + width + gap
    room = total - 2 * gap
    head = wrapped(title, style.big, room, most=3)
    foot = [text for note in notes for text in wrapped(note, style.small, room)]
    top = 4 * gap + len(head) * style.tall + 2 * line
    each = height + gap // 2 + _CAPTION * line + gap
    tops = [top + number * each for number in range(len(rows))]
    sheet = Image.new("RGB", (total, tops[-1] + each + len(foot) * line + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    _lines(draw, head, (gap, gap), style.big, style.tall, INK)
    under = (gap, gap + len(head) * style.tall + gap // 2)
    _lines(draw, [fitted(subtitle, style.small, room)], under, style.small, line, PALE)
    for x, heading in zip(lefts, headings, strict=True):
        _head(sheet, draw, heading, (x, top - gap // 2 - line), width, style)
    for y, row in zip(tops, rows, strict=True):
        draw.text((left - gap, y + height / 2), row.label, INK, style.small, anchor="rm")
        for x, panel in zip(lefts, row.panels, strict=True):
            _place(sheet, draw, panel, (x, y), size, style)
    _lines(draw, foot, (gap, tops[-1] + each), style.small, line, PALE)
    return sheet


def _style(width: int) -> _Style:
    """What suits pictures of some width."""
    big, small = max(14, width // 14), max(12, width // 20)
    fonts = ImageFont.load_default(big), ImageFont.load_default(small)
    return _Style(*fonts, big * 5 // 4, small * 5 // 4, max(10, width // 24))


def wrapped(text: str, font: Font, room: float, most: int = 99) -> list[str]:
    """A text on at most so many lines of at most `room` pixels, broken between words; what is too
    long even so is cut off.
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (font.getlength(longer) <= room or len(lines) == most):
            lines[-1] = longer
        else:
            lines.append(word)
    return [fitted(line, font, room) for line in lines]


def _lines(
    draw: ImageDraw.ImageDraw,
    texts: Sequence[str],
    at: tuple[int, int],
    font: Font,
    step: int,
    ink: Colour,
) -> None:
    for number, text in enumerate(texts):
        draw.text((at[0], at[1] + number * step), text, ink, font)


def _head(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    heading: Heading,
    at: tuple[int, int],
    width: int,
    style: _Style,
) -> None:
    x, y = at
    if heading.hue is not None:
        bar = scale(heading.hue, (width // 5, width // 24))
        sheet.paste(bar, (x, y + 2))
        draw.rectangle((x, y + 2, x + bar.width - 1, y + 1 + bar.height), outline=heading.hue)
        x, width = x + bar.width + 8, width - bar.width - 8
    draw.text((x, y), fitted(heading.text, style.small, width), INK, style.small)


def _place(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    panel: Panel,
    at: tuple[int, int],
    size: tuple[int, int],
    style: _Style,
) -> None:
    (x, y), (width, height) = at, size
    if panel.image is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_BLANK)
    else:
        sheet.paste(panel.image, at)
    texts = [fitted(text, style.small, width) for text in panel.caption.splitlines()]
    _lines(draw, texts, (x, y + height + style.gap // 2), style.small, style.line, PALE)
