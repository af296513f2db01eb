"""The whole of ``generate``: load, make, save, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compose.errors import RequestError
from compose.result import Prepared, Progress
from compose.run import Calls

from . import explaining
from .console import Screen
from .files import write_new
from .grid import Cell, draw_grid
from .metadata import png_bytes
from .order import Column, Setting
from .studio import Saved, Studio


@dataclass
class Work:
    """What was asked for and what has been made of it so far.

    Attributes:
        columns: the requests; one, or those of a grid.
        prepared: with their adapters loaded, in the same order.
        saved: pictures, by the number of their column.
        load: seconds until the first step.
        grid: file of the grid.
    """

    columns: Sequence[Column]
    prepared: Sequence[Prepared]
    saved: list[tuple[int, Saved]] = field(default_factory=list)
    load: float = 0.0
    grid: Path | None = None

    @property
    def wanted(self) -> int:
        """How many pictures were asked for."""
        return sum(len(p.request.seeds) for p in self.prepared)


def make(
    columns: Sequence[Column],
    setting: Setting,
    folder: Path,
    screen: Screen,
    *,
    start: float,
    notes: Sequence[str] = (),
    grid: bool = False,
    explain: bool = False,
) -> None:
    """Make every picture of one request, or of all columns of a grid, and report.

    Args:
        columns: at least one.
        setting: model and machine.
        folder: that can be written to.
        screen: where results and warnings go.
        start: `time.perf_counter` when the command began.
        notes: to be told once nothing can be refused any more.
        grid: whether to lay all pictures out in one.
        explain: whether to tell what each adapter did.

    Raises:
        ComposeError: the request cannot be carried out.
        KeyboardInterrupt: with a message; finished pictures are kept and reported.
    """
    studio = Studio.open(setting)
    work = prepare(columns, studio, screen, explain=explain)
    work.load = time.perf_counter() - start
    for note in notes:
        screen.note(note)
    try:
        produce(work, studio, folder, screen)
        if grid:
            work.grid = save_grid(work, setting, folder)
            screen.result(str(work.grid))
    except KeyboardInterrupt:
        screen.data(report(work, setting, screen, start))
        done = f"{len(work.saved)} of {work.wanted} pictures are finished and kept"
        raise KeyboardInterrupt(f"interrupted: {done}") from None
    screen.data(report(work, setting, screen, start))


def prepare(
    columns: Sequence[Column], studio: Studio, screen: Screen, *, explain: bool = False
) -> Work:
    """Load adapters, check every request, and warn."""
    kept, prepared = [], []
    for column in columns:
        try:
            prepared.append(studio.composer.prepare(column.request, explain=explain))
        except RequestError as error:
            if not column.optional:
                raise
            screen.warn(f"{column.label} is left out: {error}")
            continue
        kept.append(column)
    for warning in prepared[-1].warnings:  # the last column of a grid has all the adapters
        screen.warn(warning)
    return Work(kept, prepared)


def produce(work: Work, studio: Studio, folder: Path, screen: Screen) -> None:
    """Make and save all pictures, each reported as soon as it is there."""
    with screen.progress("picture", work.wanted) as each:

        def tell(where: Progress) -> None:
            screen.watch(where)
            each(where.step, where.steps)

        for number, (column, prepared) in enumerate(zip(work.columns, work.prepared, strict=True)):
            for saved in studio.pictures(prepared, column.label, folder, tell):
                work.saved.append((number, saved))
                screen.result(str(saved.path))
                if saved.sheet is not None and saved.made.explanation is not None:
                    screen.result(str(saved.sheet))
                    screen.note(explaining.line(saved.made, saved.made.explanation))


def report(work: Work, setting: Setting, screen: Screen, start: float) -> dict[str, Any]:
    """The result in JSON."""
    made = [saved.made for _, saved in work.saved]
    data: dict[str, Any] = {
        "images": [_image(work, number, saved) for number, saved in work.saved],
        "method": ",".join(column.label for column in work.columns if column.method),
        "model": setting.model,
        "adapters": _adapters(work.prepared[-1]),
        "calls": {n: sum(getattr(m.calls, n) for m in made) for n in asdict(Calls())},
        "seconds": {
            "load": round(work.load, 3),
            "denoise": round(sum(m.denoise for m in made), 3),
            "decode": round(sum(m.decode for m in made), 3),
            "total": round(time.perf_counter() - start, 3),
        },
        "warnings": screen.warnings,
    }
    if work.grid is not None:
        data["grid"] = {"path": str(work.grid), "columns": [c.label for c in work.columns]}
    return data


def _image(work: Work, number: int, saved: Saved) -> dict[str, Any]:
    data: dict[str, Any] = {
        "path": str(saved.path),
        "seed": saved.made.seed,
        "sha256": saved.sha256,
    }
    if len(work.columns) > 1:
        data["column"] = work.columns[number].label
    if saved.made.explanation is not None:
        data["explain"] = {"path": str(saved.sheet), **explaining.report(saved.made.explanation)}
    return data


def _adapters(prepared: Prepared) -> list[dict[str, Any]]:
    parts = zip(prepared.request.adapters, prepared.adapters, prepared.reports, strict=True)
    return [
        {
            "name": adapter.name,
            "weight": use.weight,
            "sites": len(adapter.factors),
            "ignored": len(report.unmatched) + len(report.ignored),
        }
        for use, adapter, report in parts
    ]


def save_grid(work: Work, setting: Setting, folder: Path) -> Path:
    """Lay the pictures out: a row for every seed, a column for every request."""
    request = work.prepared[-1].request
    cells = [
        Cell(request.seeds.index(saved.made.seed), number, saved.made.image)
        for number, saved in work.saved
    ]
    used = ", ".join(f"{use['name']} {use['weight']:g}" for use in _adapters(work.prepared[-1]))
    details = f"{used or 'no adapters'}; {setting.model}, {request.steps} steps"
    picture = draw_grid(
        cells,
        rows=[f"seed {seed}" for seed in request.seeds],
        columns=[column.label for column in work.columns],
        title=request.prompt,
        subtitle=f"{details}, guidance {request.guidance:g}",
    )
    stem = f"{request.seeds[0]}-grid-{work.saved[-1][1].sha256[:8]}"
    return write_new(folder, stem, ".png", png_bytes(picture))
