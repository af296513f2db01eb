"""Does the recognizer see what a person sees? Its reading of 200 generated pictures beside labels
made by eye.

    python benchmarks/calibration.py pick RUN...    # from the pictures of `lora-compose evaluate`
    python benchmarks/calibration.py score          # labels.csv against the recognizer

`pick` draws evenly from the rows of one or several evaluations and writes numbered sheets without
what the recognizer said; labels.csv is then written by eye, before `score` is run for the first
time. A label is a picture's things from left to right, such as "teal split white cat; maroon
checker gold cat", "?" where a person cannot tell.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from compose.evaluate.records import read_records
from compose.evaluate.statistics import Figure
from compose.world.reading import Reading, Seen, read
from compose.world.recognizer_file import load_recognizer

HERE = Path(__file__).parent / "calibration"
SIDE, ACROSS, DOWN = 128, 5, 5
ZOOM, MARGIN = 2, 14
SEED = 4
HEADS = ("species", "colour", "pattern", "second")


class Label(NamedTuple):
    """One thing as a person sees it; "?" where that cannot be told."""

    species: str
    colour: str
    pattern: str
    second: str

    @classmethod
    def of(cls, text: str) -> Label:
        """From words: COLOUR SPECIES, or COLOUR PATTERN SECOND SPECIES."""
        words = text.split()
        if len(words) == 2:
            return cls(words[1], words[0], "plain", "none")
        if len(words) == 4:
            return cls(words[3], words[0], words[1], words[2])
        raise SystemExit(
            f"label {text!r} has {len(words)} words; expected COLOUR SPECIES or COLOUR PATTERN"
            " SECOND SPECIES"
        )


def pick(runs: Sequence[Path], count: int) -> None:
    """Draw pictures evenly from all rows and write them as sheets."""
    by_row: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for run in runs:
        for record in read_records(run):
            if record.row != "rendered":
                by_row[record.row].append((run / record.image, record.case))
    rng = random.Random(SEED)
    for pictures in by_row.values():
        rng.shuffle(pictures)
    chosen = []
    while len(chosen) < count and any(by_row.values()):
        chosen += [(row, *left.pop()) for row, left in by_row.items() if left]
    chosen = chosen[:count]
    rng.shuffle(chosen)
    HERE.mkdir(exist_ok=True)
    each = ACROSS * DOWN
    for sheet, start in enumerate(range(0, len(chosen), each)):
        part = [Image.open(path).convert("RGB") for _, path, _ in chosen[start : start + each]]
        joined = Image.new("RGB", (ACROSS * SIDE, DOWN * SIDE))
        for at, picture in enumerate(part):
            first = picture.crop((0, 0, SIDE, SIDE))  # of "alone", which has one for each adapter
            joined.paste(first, (at % ACROSS * SIDE, at // ACROSS * SIDE))
        joined.save(HERE / f"sheet{sheet}.webp", lossless=True, quality=100, method=4)
    listed = [{"row": row, "case": case} for row, _, case in chosen]
    (HERE / "pictures.json").write_text(json.dumps(listed, indent=0) + "\n")


def show(folder: Path) -> None:
    """Sheets twice as large and numbered, as PNG, to label from."""
    for number, sheet in enumerate(sorted(HERE.glob("sheet*.webp"))):
        small = Image.open(sheet).convert("RGB")
        cell = SIDE * ZOOM
        large = Image.new("RGB", (ACROSS * cell, DOWN * (cell + MARGIN)), "white")
        draw = ImageDraw.Draw(large)
        for at in range(ACROSS * DOWN):
            x, y = at % ACROSS, at // ACROSS
            box = (x * SIDE, y * SIDE, (x + 1) * SIDE, (y + 1) * SIDE)
            large.paste(small.crop(box).resize((cell, cell)), (x * cell, y * (cell + MARGIN)))
            text = str(number * ACROSS * DOWN + at)
            draw.text((x * cell + 2, y * (cell + MARGIN) + cell + 1), text, fill="black")
        folder.mkdir(parents=True, exist_ok=True)
        large.save(folder / f"sheet{number}.png")


def pictures(count: int) -> torch.Tensor:
    """The pictures of the sheets, [N, 3, 128, 128] in [0, 1]."""
    cells = []
    for number in range(-(-count // (ACROSS * DOWN))):
        sheet = np.asarray(Image.open(HERE / f"sheet{number}.webp").convert("RGB"))
        rows = sheet.reshape(DOWN, SIDE, ACROSS, SIDE, 3).transpose(0, 2, 4, 1, 3)
        cells.append(rows.reshape(-1, 3, SIDE, SIDE))
    return torch.from_numpy(np.concatenate(cells)[:count]).float() / 255


def score() -> list[Figure]:
    """Agreement by attribute and by row; prints every picture that is read otherwise."""
    with (HERE / "labels.csv").open(newline="") as stream:
        labels = {int(row["picture"]): _things(row["things"]) for row in csv.DictReader(stream)}
    listed = json.loads((HERE / "pictures.json").read_text())
    readings = read(load_recognizer(), pictures(len(listed)))
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number, things in sorted(labels.items()):
        row = listed[number]["row"]
        faults = list(_faults(things, readings[number], right, asked))
        for name in ("whole picture", f"whole picture, {row}"):
            asked[name] += 1
            right[name] += not faults
        if faults:
            seen = "; ".join(_said(thing) for thing in readings[number].things)
            print(f"{number} ({row}): {', '.join(faults)}; read as: {seen}")
    return [Figure(name, right[name], asked[name]) for name in asked]


def _things(text: str) -> list[Label]:
    return [Label.of(part) for part in text.split(";") if part.strip()]


def _faults(
    things: Sequence[Label], reading: Reading, right: Counter[str], asked: Counter[str]
) -> Iterable[str]:
    asked["number of things"] += 1
    right["number of things"] += len(things) == len(reading.things)
    if len(things) != len(reading.things):
        yield f"{len(things)} things by eye, {len(reading.things)} read"
        return
    for label, seen in zip(things, reading.things, strict=True):
        for head in HEADS:
            eye, machine = getattr(label, head), getattr(seen, head) or "none"
            if eye == "?":
                continue
            asked[head] += 1
            right[head] += eye == machine
            if eye != machine:
                yield f"{head} {eye} by eye, {machine} read"


def _said(seen: Seen) -> str:
    return " ".join(filter(None, (seen.colour, seen.pattern, seen.second, seen.species)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    picking = commands.add_parser("pick")
    picking.add_argument("runs", nargs="+", type=Path)
    picking.add_argument("--count", type=int, default=200)
    commands.add_parser("show").add_argument("folder", type=Path)
    commands.add_parser("score")
    args = parser.parse_args()
    if args.command == "pick":
        pick(args.runs, args.count)
    elif args.command == "show":
        show(args.folder)
    else:
        figures = score()
        print("| by eye and by recognizer | agree | 95 % interval | n |\n|---|---|---|---|")
        print("\n".join(figure.row for figure in figures))


if __name__ == "__main__":
    main()
