"""The whole of ``evaluate``: plan, make, judge, report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from compose.adapters.library import AdapterLibrary
from compose.device import pick_device
from compose.errors import RequestError
from compose.evaluate.cases import cases_hash, make_cases
from compose.evaluate.features import update_features
from compose.evaluate.pools import Inline, Pool, Processes
from compose.evaluate.records import read_records
from compose.evaluate.report import write_report
from compose.evaluate.rows import Row, controls, method_rows
from compose.evaluate.runner import (
    Outcome,
    check_folder,
    estimate,
    evaluate,
    evaluation_records,
    missing_blocks,
    try_out,
)
from compose.evaluate.suite import Suite
from compose.evaluate.suite_file import find_suite
from compose.evaluate.worker import Block, Setting
from compose.models.source import find
from compose.world.recognizer_file import recognizer_path

from .console import Screen, hush
from .identity import model_fingerprint

_MOST_WORKERS = 8  # unless more are asked for; each holds a model of its own


@dataclass(frozen=True)
class Order:
    """What was asked for, checked as far as that goes without a model.

    Attributes:
        suite: the questions.
        rows: controls and methods.
        left_out: a sentence about every method that a suite cannot give what it needs.
        seeds, steps: numbers.
        model, device: as for `Composer.load`; the device is "cpu" or "cuda".
        workers: how many processes; 0 to work in this one.
    """

    suite: Suite
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    seeds: int
    steps: int
    model: str
    device: str
    workers: int

    @classmethod
    def read(
        cls,
        suite: str,
        *,
        methods: Sequence[str] | None,
        seeds: int | None,
        steps: int | None,
        model: str,
        device: str,
        executor: str,
        workers: int | None,
    ) -> Self:
        """From flags.

        Raises:
            SuiteError: no such suite, or one that says something impossible.
            RequestError: a number out of range, or a method that cannot be used.
            ModelError: there is no such model.
        """
        found = find_suite(suite)
        if methods is not None and not methods:
            raise RequestError("--methods names no method; expected some, such as merge,switch")
        chosen, left_out = method_rows(methods)
        for flag, number, most in (("seeds", seeds, 1000), ("steps", steps, 1000)):
            if number is not None and not 1 <= number <= most:
                raise RequestError(f"--{flag} {number} is out of range; expected 1 to {most}")
        if workers is not None and not 1 <= workers <= 256:
            raise RequestError(f"--workers {workers} is out of range; expected 1 to 256")
        if workers is not None and executor == "inline":
            raise RequestError("--workers was given, but --executor inline works alone; drop one")
        find(model)
        where = pick_device(device).type
        here = executor == "inline" or (executor == "auto" and workers is None and where != "cpu")
        return cls(
            suite=found,
            rows=(*controls(), *chosen),
            left_out=left_out,
            seeds=found.seeds if seeds is None else seeds,
            steps=found.steps if steps is None else steps,
            model=model,
            device=where,
            workers=0 if here else workers or min(os.cpu_count() or 1, _MOST_WORKERS),
        )

    def identity(self) -> dict[str, object]:
        """Whatever changes a picture or its verdict."""
        library = AdapterLibrary.default()
        used = {n for g in self.suite.groups for names in g.combinations for n in names}
        return {
            "format": 1,
            "suite": self.suite.name,
            "questions": cases_hash(self.suite),
            "steps": self.steps,
            "device": self.device,
            "model": model_fingerprint(find(self.model).files()),
            "recognizer": model_fingerprint([("recognizer", recognizer_path())]),
            "adapters": {name: library.find(name).hashes.autov3 for name in sorted(used)},
        }


def carry_out(
    order: Order, folder: Path, screen: Screen, *, until: float | None, compare: Path | None
) -> dict[str, Any]:
    """Make what is missing, then write the report.

    Args:
        order: checked.
        folder: that can be written to.
        screen: for progress and notices.
        until: `time.monotonic` at which to be done; None for no bound.
        compare: report.json of another evaluation.

    Returns:
        What the report says, for JSON.

    Raises:
        ComposeError: it cannot be carried out.
        KeyboardInterrupt: with a message; what is done is kept.
    """
    hush()
    for sentence in order.left_out:
        screen.warn(f"left out: {sentence}")
    identity = order.identity()
    check_folder(folder, identity)
    work = make_cases(order.suite, order.seeds)
    names = [row.name for row in order.rows]
    blocks = missing_blocks(work, names, read_records(folder))
    setting = Setting(order.suite.name, folder, order.steps, order.model, order.device)
    if blocks:
        with Processes(setting, order.workers) if order.workers else Inline(setting) as pool:
            outcome = _work_off(pool, blocks, folder, screen, until, identity)
        _tell(outcome, screen)
    update_features(folder, evaluation_records(folder, order.suite.name))
    return write_report(folder, compare=compare)


def _work_off(
    pool: Pool,
    blocks: Sequence[Block],
    folder: Path,
    screen: Screen,
    until: float | None,
    identity: Mapping[str, object],
) -> Outcome:
    pace = try_out(pool, blocks)
    ahead = estimate(pace, blocks, pool.workers)
    screen.note(
        f"{ahead.blocks} cases and seeds with {ahead.pictures} pictures to make: about"
        f" {_spoken(ahead.seconds)} with {pool.workers} at work"
    )
    finished = 0
    with screen.progress("evaluating", 1) as step:

        def each(done: int, total: int) -> None:
            nonlocal finished
            finished = done
            step(done, total)

        try:
            return evaluate(pool, blocks, folder, pace, identity=identity, until=until, each=each)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted: {finished} of {len(blocks)} cases and seeds are done and kept; the"
                " same command goes on from there"
            ) from None


def _tell(outcome: Outcome, screen: Screen) -> None:
    for (row, reason), count in outcome.refused.items():
        screen.warn(f"{row} is left out of {count} cases: {reason}")
    if outcome.done < outcome.wanted:
        screen.note(
            f"time is up: {outcome.done} of {outcome.wanted} cases and seeds are done; the same"
            " command goes on from there"
        )


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
