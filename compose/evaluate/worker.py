"""Makes and judges the pictures of one case and seed."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from compose.composer import Composer
from compose.errors import RequestError
from compose.evaluate.cases import Case
from compose.evaluate.measures import Sight, measure, measure_parts, retention, summary
from compose.evaluate.memory import peak_memory
from compose.evaluate.records import Record
from compose.evaluate.rows import ALONE, Drawing, Row, Shot, find_rows
from compose.result import ComposedImage
from compose.whole import write_whole
from compose.world.reading import load_recognizer, read
from compose.world.recognizer import Recognizer
from compose.world.renderer import render

PICTURES = "pictures"
"""Folder of the pictures, inside that of the records."""
_UNSAFE = re.compile(r"[^\w.+@-]+")  # in a file name


@dataclass(frozen=True)
class Setting:
    """With what an evaluation is carried out.

    Attributes:
        suite: name of the suite, for the records.
        folder: of the records and pictures.
        steps: denoising steps.
        model, device: as for `Composer.load`.
    """

    suite: str
    folder: Path
    steps: int
    model: str = "embedded"
    device: str = "auto"


@dataclass(frozen=True)
class Block:
    """One case and seed: the unit of work, done whole or not at all.

    Attributes:
        case, seed: what to make.
        rows: names of the rows to make, in this order.
        ceiling: measures of the row "alone" where that is there already.
        trial: make pictures of one step, to see how long they take; nothing is written.
    """

    case: Case
    seed: int
    rows: tuple[str, ...]
    ceiling: Mapping[str, float | None] | None = None
    trial: bool = False


@dataclass(frozen=True)
class Done:
    """What came of a block.

    Attributes:
        block: as given.
        records: one for every row that could be made.
        refused: row and reason for every method that refused the case.
        seconds: that its pictures took, by row; in a trial, that they would take.
    """

    block: Block
    records: tuple[Record, ...]
    refused: tuple[tuple[str, str], ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class _Taken:
    """One picture.

    Attributes:
        image: RGB.
        sight: beside what was asked.
        cost: as of `Record`.
        denoise: seconds of its steps.
    """

    image: Image.Image
    sight: Sight
    cost: Mapping[str, float]
    denoise: float = 0.0


class Worker:
    """Holds a model and the recognizer from one block to the next.

    Raises:
        ModelError: the model is missing or broken.
        RequestError: the device is not there.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @cached_property
    def composer(self) -> Composer:
        """The engine; loaded when first needed."""
        return Composer.load(self.setting.model, device=self.setting.device)

    @cached_property
    def recognizer(self) -> Recognizer:
        """The judge, on the CPU."""
        return load_recognizer()

    def run(self, block: Block) -> Done:
        """Make, judge and save the pictures of a block.

        Raises:
            ComposeError: something that has nothing to do with the method of a row.
        """
        ceiling = block.ceiling
        records: list[Record] = []
        refused: list[tuple[str, str]] = []
        seconds: dict[str, float] = {}
        rows = find_rows(block.rows)
        if block.trial:  # the first picture of a process takes longer
            self._row(rows[0], block)
        for row in rows:
            start = time.perf_counter()
            try:
                taken = self._row(row, block)
            except _RefusedError as refusal:
                refused.append((row.name, str(refusal)))
                continue
            measured = _judged(row, taken, ceiling)
            if row.name == ALONE:
                ceiling = measured
            records.append(self._record(row, block, taken, measured))
            spent = time.perf_counter() - start
            further = self.setting.steps - 1 if block.trial else 0
            seconds[row.name] = spent + further * sum(one.denoise for one in taken)
        return Done(block, tuple(records), tuple(refused), seconds)

    def _row(self, row: Row, block: Block) -> list[_Taken]:
        steps = 1 if block.trial else self.setting.steps
        return [
            self._take(shot, block.case, row) for shot in row.shots(block.case, block.seed, steps)
        ]

    def _take(self, shot: Shot | Drawing, case: Case, row: Row) -> _Taken:
        if isinstance(shot, Drawing):
            pixels = render([shot.scene])[0].permute(1, 2, 0).mul(255).round().byte()
            return self._taken(Image.fromarray(pixels.numpy()), case, {}, 0.0)
        with peak_memory(self.composer.family.device) as peak:
            made = self._make(shot, row)
        cost = {**asdict(made.calls), "seconds": made.denoise + made.decode}
        cost |= {} if peak.bytes is None else {"memory": float(peak.bytes)}
        return self._taken(made.image.convert("RGB"), case, cost, made.denoise)

    def _taken(
        self, image: Image.Image, case: Case, cost: Mapping[str, float], denoise: float
    ) -> _Taken:
        """Judge a picture as it will lie in its file, 8 bits a channel."""
        picture = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        (reading,) = read(self.recognizer, picture[None])
        return _Taken(image, Sight(case.asked, reading, picture), cost, denoise)

    def _make(self, shot: Shot, row: Row) -> ComposedImage:
        try:
            prepared = self.composer.prepare(shot.request)
            if shot.change is not None:
                (seed,) = shot.request.seeds
                prepared = replace(prepared, adapters=shot.change(prepared.adapters, seed))
            (made,) = self.composer.images(prepared)
        except RequestError as error:
            if row.control:
                raise
            raise _RefusedError(str(error)) from error
        return made

    def _record(
        self, row: Row, block: Block, taken: list[_Taken], measured: Mapping[str, float | None]
    ) -> Record:
        case = block.case
        slug = _UNSAFE.sub("_", case.name)
        path = Path(PICTURES) / row.name / f"{slug}-{block.seed}.png"
        if not block.trial:
            _save(self.setting.folder / path, _side_by_side([one.image for one in taken]))
        return Record(
            suite=self.setting.suite,
            case=case.name,
            row=row.name,
            control=row.control,
            seed=block.seed,
            adapters=case.adapters,
            prompt=case.prompt,
            image=path.as_posix(),
            measures=measured,
            cost=_together([one.cost for one in taken]),
        )


class _RefusedError(Exception):
    """A method cannot be used on a case."""


def _judged(
    row: Row, taken: list[_Taken], ceiling: Mapping[str, float | None] | None
) -> dict[str, float | None]:
    """Measures of a row; of "alone", each adapter on its own picture."""
    if row.name == ALONE:
        parts = taken[0].sight.asked.parts
        own: dict[str, float | None] = {}
        for one, part in zip(taken, parts, strict=True):
            own |= measure_parts(one.sight, [part])
        return {**summary(own, parts), **own}
    (only,) = taken
    measured = measure(only.sight)
    if ceiling is not None:
        measured["retention"] = retention(measured, ceiling)
    return measured


def _together(costs: list[Mapping[str, float]]) -> dict[str, float]:
    """Costs add up; of memory the most counts."""
    names = dict.fromkeys(name for cost in costs for name in cost)
    return {
        name: (max if name == "memory" else sum)([cost[name] for cost in costs]) for name in names
    }


def _side_by_side(images: list[Image.Image]) -> Image.Image:
    if len(images) == 1:
        return images[0]
    strip = Image.new("RGB", (sum(i.width for i in images), images[0].height))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width
    return strip


def _save(path: Path, image: Image.Image) -> None:
    data = BytesIO()
    image.save(data, "PNG")
    write_whole(path, data.getvalue())
