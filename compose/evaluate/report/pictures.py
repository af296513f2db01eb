"""Which pictures a report shows, and small copies of them that lie inside it."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from compose.evaluate.records import Record
from compose.evaluate.report.html import Html, tag, together
from compose.evaluate.report.table import Key, Row, Table
from compose.evaluate.report.words import MEASURES, sign

_CASES = 4  # shown side by side
_EACH = 4  # pictures at most of each kind
_HEIGHT = 128  # pixels of a small copy; pictures side by side may be wider
_WIDTH = 1024
_QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class Chosen:
    """Numbers of a row's pictures; none is in two lists."""

    best: tuple[int, ...]
    median: tuple[int, ...]
    worst: tuple[int, ...]


def choose(table: Table, row: Row) -> Chosen:
    """The best (best first), median and worst (worst first) pictures of a row.

    Ranked by the headline measure, then by the mean of the other known shares; what is still equal
    is in an order drawn from case and seed, which is the same for every row.
    """
    others = [m for m in table.plain if m in MEASURES and m in table.shares and m != table.headline]

    def rank(i: int) -> tuple[float, float, int]:
        first = _oriented(row, table.headline, i)
        rest = [v for m in others if not np.isnan(v := _oriented(row, m, i))]
        mean = sum(rest) / len(rest) if rest else 0.0
        key = row.records[i].case, row.records[i].seed
        return (-np.inf if np.isnan(first) else first), mean, _drawn(key)

    order = sorted(range(len(row.records)), key=rank, reverse=True)
    count = min(_EACH, -(-len(order) // 3))
    best = order[:count]
    worst = order[count:][-count:][::-1]
    between = order[count : len(order) - len(worst)]
    start = (len(between) - min(count, len(between))) // 2
    return Chosen(tuple(best), tuple(between[start : start + count]), tuple(worst))


def side_by_side(table: Table, folder: Path) -> Html:
    """The same questions, answered by every row: those that most rows answered, in a drawn order.

    Args:
        table: the records.
        folder: that holds them and their pictures.
    """
    answers = {key: sum(key in row.places for row in table.rows) for key in table.keys}
    full = [key for key, count in answers.items() if count == max(answers.values())]
    parts = []
    for key in sorted(full, key=_drawn)[:_CASES]:
        taken = [(row, row.places[key]) for row in table.rows if key in row.places]
        pictures = [
            _figure(folder, row.records[i], row.name, _judged(table, row, i)) for row, i in taken
        ]
        first, i = taken[0]
        title = tag("h3", first.records[i].prompt)
        case = tag("p", f"{key[0]}, seed {key[1]}", class_="note")
        parts += [title, case, tag("div", together(pictures), class_="sheet")]
    return together(parts)


def sheet(table: Table, row: Row, folder: Path) -> Html:
    """Best, median and worst pictures of a row.

    Args:
        table, row: the records.
        folder: that holds them and their pictures.
    """
    kinds = []
    for name, numbers in vars(choose(table, row)).items():
        pictures = []
        for i in numbers:
            record = row.records[i]
            asked = f"{record.case}, seed {record.seed}"
            pictures.append(_figure(folder, record, _judged(table, row, i), asked))
        if pictures:
            inner = tag("div", together(pictures), class_="sheet")
            kinds.append(tag("div", tag("h4", name), inner))
    return together([tag("h3", row.name), tag("div", together(kinds), class_="kinds")])


def _judged(table: Table, row: Row, i: int) -> str:
    value = row.columns[table.headline][i]
    return "not judged" if np.isnan(value) else f"{value:.3g}"


def _drawn(key: Key) -> int:
    """A number for a case and seed that says nothing about them."""
    return zlib.crc32(f"{key[0]} {key[1]}".encode())


def _oriented(row: Row, measure: str, i: int) -> float:
    return sign(measure) * float(row.columns[measure][i])


def _figure(folder: Path, record: Record, said: str, more: str) -> Html:
    """A small copy of a picture over two lines of words; it leads to the picture's own file, and
    where there is none that is said in its place."""
    words = tag("figcaption", said, tag("span", more))
    small = _small(folder / record.image)
    if small is None:
        gone = tag("div", f"no picture at {record.image}", class_="gone")
        return tag("figure", gone, words)
    picture = tag("img", src=small, alt=record.prompt, title=record.prompt)
    return tag("figure", tag("a", picture, href=quote(record.image)), words)


def _small(path: Path) -> str | None:
    """A JPEG as a data address; None where there is no readable picture."""
    try:
        with Image.open(path) as image:
            copy = image.convert("RGB")
    except OSError:
        return None
    copy.thumbnail((_WIDTH, _HEIGHT))
    data = BytesIO()
    copy.save(data, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
