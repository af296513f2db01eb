"""Contact sheets of a batch: one for every item of the file, its grid as rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from compose.whole import write_whole
from compose_app.grid import Cell, draw_grid
from compose_app.metadata import png_bytes

from .plan import Item

ROWS = 24
"""Most rows of a sheet; more go on another one."""
_ACROSS = 8  # pictures in a row where there is no grid
_SHOWN = 512  # longest side of a picture while it waits, in pixels
Place = tuple[str, str]
"""Labels of the row and of the column."""


def write_sheets(items: Sequence[Item], files: Mapping[str, Path], folder: Path) -> list[Path]:
    """Lay the pictures of a batch out.

    Args:
        items: of the batch, in the order of the file.
        files: name of an item to its picture; places of others stay empty.
        folder: where to write ``sheet-NAME.png``, and ``sheet-NAME-2.png`` where one is too long.

    Returns:
        The files.
    """
    written = []
    for entry in dict.fromkeys(item.entry for item in items):
        placed = list(_placed([item for item in items if item.entry == entry]))
        rows = list(dict.fromkeys(row for _, (row, _) in placed))
        columns = list(dict.fromkeys(column for _, (_, column) in placed))
        for page in range(0, len(rows), ROWS):
            shown = rows[page : page + ROWS]
            there = [one for one in placed if one[1][0] in shown and one[0].name in files]
            if not there:
                continue
            number = page // ROWS + 1
            path = folder / (f"sheet-{entry}.png" if number == 1 else f"sheet-{entry}-{number}.png")
            sheet = _sheet(there, files, shown, columns, entry)
            write_whole(path, png_bytes(sheet))
            written.append(path)
    return written


def _placed(items: Sequence[Item]) -> Iterator[tuple[Item, Place]]:
    """Items with their places: the first axis makes the columns, all else the rows."""
    axes = list(items[0].axes)
    pictures = max(item.picture for item in items) + 1
    for index, item in enumerate(items):
        if not axes:
            first = index - index % _ACROSS
            last = min(first + _ACROSS, len(items))
            yield item, (f"{first + 1}-{last}", f"+{index % _ACROSS}")
            continue
        parts = [f"{_short(axis)} {item.axes[axis]}" for axis in axes[1:]]
        parts += [f"#{item.picture + 1}"] if pictures > 1 or not parts else []
        yield item, (", ".join(parts), f"{_short(axes[0])} {item.axes[axes[0]]}")


def _short(axis: str) -> str:
    return axis.removeprefix("set.").removeprefix("weight.").strip("_")


def _sheet(
    placed: Iterable[tuple[Item, Place]],
    files: Mapping[str, Path],
    rows: Sequence[str],
    columns: Sequence[str],
    entry: str,
) -> Image.Image:
    shown = [(item, place, _small(files[item.name])) for item, place in placed]
    width = max(image.width for _, _, image in shown)
    height = max(image.height for _, _, image in shown)
    cells = [
        Cell(rows.index(row), columns.index(column), _padded(image, (width, height)))
        for _, (row, column), image in shown
    ]
    prompts = {item.request["prompt"] for item, _, _ in shown}
    first = shown[0][0].request["prompt"]
    subtitle = first if len(prompts) == 1 else f"{first} (and {len(prompts) - 1} other prompts)"
    sheet: Image.Image = draw_grid(
        cells, rows=rows, columns=columns, title=entry, subtitle=subtitle
    )
    return sheet


def _small(path: Path) -> Image.Image:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((_SHOWN, _SHOWN))
    return picture


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in the middle of a white cell, where sizes differ."""
    return image if image.size == size else ImageOps.pad(image, size, color="white")
