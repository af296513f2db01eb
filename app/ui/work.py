"""What jobs do: the very steps of the command line, told to a browser instead of a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from compose.models.family import Family
from compose.request import Request
from compose.result import Progress

from ..console import Screen
from ..files import write_new
from ..grid import Cell, draw_grid
from ..making import Work, prepare, produce, save_grid
from ..metadata import png_bytes
from ..order import Column
from ..studio import Studio
from .axes import Axis
from .worker import Job

_PAUSE = 0.7  # seconds between two previews
EXPLAINED = "-explain"
"""End of the name of a picture's sheet of explanations."""
_CELLS = 32  # most rows and columns of latents that a preview decodes


@dataclass(frozen=True)
class Stepped:
    """A step is done: number `done` of `total`, over all pictures of the job.

    Attributes:
        seconds: since the first step of the job began.
        preview: what the picture looks like by now; None for as before.
    """

    done: int
    total: int
    seconds: float
    preview: Image.Image | None


@dataclass(frozen=True)
class Made:
    """A picture was saved."""

    path: Path


@dataclass(frozen=True)
class Laid:
    """A sheet of several pictures was saved."""

    path: Path


@dataclass(frozen=True)
class Warned:
    """Something that the user should know."""

    text: str


class Page(Screen):
    """A `Screen` whose reader is a browser.

    Args:
        job: on whose behalf.
        family: decodes previews.
        previews: whether to show pictures in the making. Not with offloading, where decoding would
            send the denoiser off the GPU at every look.
    """

    def __init__(self, job: Job, family: Family, *, previews: bool) -> None:
        super().__init__(quiet=True)
        self.job, self.family, self.previews = job, family, previews
        self._last = time.monotonic()
        self._preview: Image.Image | None = None

    def result(self, line: str) -> None:
        """A picture was saved, or the sheet of an explained one."""
        path = Path(line)
        self.job.put(Laid(path) if path.stem.endswith(EXPLAINED) else Made(path))

    def note(self, line: str) -> None:
        """What each adapter did."""
        self.job.put(Warned(line))

    def warn(self, line: str) -> None:
        """A warning; the same one is given once."""
        if line not in self.warnings:
            self.warnings.append(line)
            self.job.put(Warned(line))

    def watch(self, where: Progress) -> None:
        """Stop here if the browser wants no more; now and then take a look at the picture."""
        self.job.check()
        now = time.monotonic()
        if self.previews and where.step < where.steps and now - self._last >= _PAUSE:
            self._preview = preview(self.family, where.latents)
            self._last = time.monotonic()

    @contextmanager
    def progress(self, what: str, rounds: int) -> Iterator[Callable[[int, int], None]]:
        """Count steps over all pictures."""
        count, start = 0, time.monotonic()

        def each(done: int, total: int) -> None:
            nonlocal count
            count += 1
            look, self._preview = self._preview, None
            self.job.put(Stepped(count, rounds * total, time.monotonic() - start, look))

        yield each


@torch.no_grad()
def preview(family: Family, latents: Tensor) -> Image.Image:
    """What latents [1, C, H, W] look like. Large ones are averaged down to 32 cells a side first,
    so that a look costs little beside a step.
    """
    height, width = latents.shape[-2:]
    shrink = max(1.0, max(height, width) / _CELLS)
    size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    small = latents if shrink == 1 else adaptive_avg_pool2d(latents, size)
    return family.decode(small)[0].convert("RGB")


def make_columns(
    columns: Sequence[Column], folder: Path, *, sheet: bool = False, explain: bool = False
) -> Callable[[Studio, Job], None]:
    """Work that makes and saves the pictures of some requests.

    Args:
        columns: the requests.
        folder: for the pictures.
        sheet: whether to lay them out in one as well.
        explain: whether to tell what each adapter did.
    """

    def work(studio: Studio, job: Job) -> None:
        done = _produced(columns, studio, job, folder, explain=explain)
        if sheet:
            job.put(Laid(save_grid(done, studio.setting, folder)))

    return work


def _produced(
    columns: Sequence[Column], studio: Studio, job: Job, folder: Path, *, explain: bool = False
) -> Work:
    previews = studio.setting.options.offload == "none"
    page = Page(job, studio.composer.family, previews=previews)
    work = prepare(columns, studio, page, explain=explain)
    produce(work, studio, folder, page)
    return work


def make_plane(
    cells: Sequence[Sequence[Request]], columns: Axis, rows: Axis, folder: Path
) -> Callable[[Studio, Job], None]:
    """Work that makes the pictures of a grid over two settings and lays them out.

    Args:
        cells: requests, by row and column.
        columns, rows: the axes.
        folder: for the pictures and the sheet.
    """
    asked = [Column(request.method.name, request) for line in cells for request in line]

    def work(studio: Studio, job: Job) -> None:
        done = _produced(asked, studio, job, folder)
        wide = len(columns.values)
        pictures = [Cell(n // wide, n % wide, saved.made.image) for n, saved in done.saved]
        sheet = draw_grid(
            pictures,
            rows=rows.labels(),
            columns=columns.labels(),
            title=cells[0][0].prompt,
            subtitle=f"{columns.name} by {rows.name}; {studio.setting.model}",
        )
        stem = f"{cells[0][0].seeds[0]}-xy-{done.saved[-1][1].sha256[:8]}"
        job.put(Laid(write_new(folder, stem, ".png", png_bytes(sheet))))

    return work
