"""Contact sheets: many small pictures with a line of words under each, wrong ones framed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_EDGE = 3  # pixels of the frame
_LINE = 11  # pixels of a line of words
_LINES = 3
_RIGHT, _WRONG, _PAPER, _INK = (225, 225, 225), (220, 30, 30), (255, 255, 255), (20, 20, 20)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        image: [3, H, W] in [0, 1].
        words: what was asked; wrapped and cut to three lines.
        wrong: what was judged wrong, framed in red and said in the last line; empty when all is
            right.
    """

    image: Tensor
    words: str
    wrong: str = ""


def contact_sheet(cells: Sequence[Cell], columns: int = 8) -> Image.Image:
    """Lay pictures out in rows.

    Args:
        cells: at least one, pictures of one size.
        columns: pictures a row.

    Returns:
        RGB picture.
    """
    columns = max(1, min(columns, len(cells)))
    side = cells[0].image.shape[-1]
    width, height = side + 2 * _EDGE + 2, side + 2 * _EDGE + _LINES * _LINE + 4
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, cell in enumerate(cells):
        _place(sheet, pen, cell, (i % columns) * width, (i // columns) * height)
    return sheet


def _place(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, x: int, y: int) -> None:
    pixels = (cell.image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    side = pixels.shape[0]
    frame = _WRONG if cell.wrong else _RIGHT
    pen.rectangle((x, y, x + side + 2 * _EDGE - 1, y + side + 2 * _EDGE - 1), fill=frame)
    sheet.paste(Image.fromarray(np.asarray(pixels)), (x + _EDGE, y + _EDGE))
    font = ImageFont.load_default(size=9)
    said = textwrap.wrap(cell.words, side // 5)[: _LINES - bool(cell.wrong)]
    for i, line in enumerate(said):
        pen.text((x + 2, y + side + 2 * _EDGE + 1 + i * _LINE), line, fill=_INK, font=font)
    if cell.wrong:
        last = y + side + 2 * _EDGE + 1 + (_LINES - 1) * _LINE
        pen.text((x + 2, last), cell.wrong[: side // 4], fill=_WRONG, font=font)


def save_sheet(cells: Sequence[Cell], path: Path, columns: int = 8) -> Path:
    """Lay out and write a PNG; the same as `contact_sheet` otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(cells, columns).save(path, optimize=True)
    return path
