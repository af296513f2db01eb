"""A whole evaluation: what is missing, in which order, until it is done or time is up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

from compose.errors import RequestError
from compose.evaluate.cases import Case
from compose.evaluate.pools import Pool
from compose.evaluate.records import Record, append_records, read_records
from compose.evaluate.rows import ALONE
from compose.evaluate.worker import Block, Done
from compose.whole import write_whole

IDENTITY = "evaluation.json"
"""File that says what the records of a folder were made with."""
Clock = Callable[[], float]


@dataclass(frozen=True)
class Estimate:
    """How much there is to do.

    Attributes:
        blocks: cases and seeds with something missing.
        pictures: rows of these.
        seconds: that it will take, by trial; 0 when there is nothing to do.
    """

    blocks: int
    pictures: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What an evaluation came to.

    Attributes:
        wanted, done: blocks that had to be made, and that were.
        refused: what methods refused: row and reason to the number of cases and seeds.
    """

    wanted: int
    done: int
    refused: Mapping[tuple[str, str], int]


@dataclass
class Pace:
    """Seconds that a row takes with so many adapters: from trials first, then from what was made.

    Attributes:
        trials: row and K to what a trial said.
        made: row and K to what pictures took: their number and the sum.
    """

    trials: dict[tuple[str, int], float] = field(default_factory=dict)
    made: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict)

    def learn(self, done: Done) -> None:
        """Take in how long the rows of a block took."""
        for row, seconds in done.seconds.items():
            key = row, len(done.block.case.adapters)
            if done.block.trial:
                self.trials[key] = seconds
            else:
                count, total = self.made.get(key, (0, 0.0))
                self.made[key] = count + 1, total + seconds

    def expect(self, block: Block) -> float:
        """Seconds that a block will take; rows that were refused take none."""
        total = 0.0
        for row in block.rows:
            key = row, len(block.case.adapters)
            count, spent = self.made.get(key, (0, 0.0))
            total += spent / count if count else self.trials.get(key, 0.0)
        return total


def missing_blocks(
    work: Iterable[tuple[Case, int]], rows: Sequence[str], records: Iterable[Record]
) -> list[Block]:
    """What has no record yet, case by case and seed by seed.

    Args:
        work: of `compose.evaluate.cases.make_cases`; its order is kept.
        rows: names of the rows that every case should have.
        records: what there is.
    """
    there = {(r.case, r.seed, r.row): r for r in records}
    blocks = []
    for case, seed in work:
        left = tuple(row for row in rows if (case.name, seed, row) not in there)
        alone = there.get((case.name, seed, ALONE))
        if left:
            blocks.append(Block(case, seed, left, None if alone is None else alone.measures))
    return blocks


def check_folder(folder: Path, identity: Mapping[str, object]) -> None:
    """Refuse to go on with an evaluation of another kind.

    Args:
        folder: of the records; it may be empty or missing.
        identity: whatever changes a picture: suite, steps, hashes of the weights.

    Raises:
        RequestError: what lies there was made with something else.
    """
    path = folder / IDENTITY
    if not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"{path} cannot be read ({error}); expected what an evaluation writes, choose another"
            " folder with --out"
        ) from None
    names = sorted({*before, *identity})
    other = [name for name in names if before.get(name) != identity.get(name)]
    if other:
        raise RequestError(
            f"{folder} holds an evaluation with another {' and '.join(other)}; expected the same,"
            " so that its figures can be compared: choose another folder with --out"
        )


def try_out(pool: Pool, blocks: Sequence[Block]) -> Pace:
    """Make pictures of one step to see how long real ones will take: a block for every number of
    adapters, and one at least for every worker, so that all have loaded the model."""
    sizes = {len(block.case.adapters): block for block in reversed(blocks)}
    count = max(len(sizes), min(pool.workers, len(blocks)))
    trials = [replace(b, trial=True) for b in islice(cycle(sizes.values()), count)]
    pace = Pace()
    for done in pool.run(trials):
        pace.learn(done)
    return pace


def estimate(pace: Pace, blocks: Sequence[Block], workers: int) -> Estimate:
    """How long some blocks will take."""
    pictures = sum(len(block.rows) for block in blocks)
    return Estimate(len(blocks), pictures, sum(map(pace.expect, blocks)) / workers)


def evaluate(
    pool: Pool,
    blocks: Sequence[Block],
    folder: Path,
    pace: Pace,
    *,
    identity: Mapping[str, object],
    until: float | None = None,
    clock: Clock = time.monotonic,
    each: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Work blocks off and keep their records, until all are done or the next would end too late.

    A block's records are written together, so rows stay paired whenever the run is cut off.

    Args:
        pool: open.
        blocks: of `missing_blocks`.
        folder: of the records.
        pace: of `try_out`; goes on learning.
        identity: as for `check_folder`; written with the first records.
        until: time of `clock` at which to be done; None for no bound.
        clock: seconds.
        each: called after every block with the number of blocks done and their total.
    """

    def in_time() -> Iterator[Block]:
        for block in blocks:
            if until is not None and clock() + pace.expect(block) > until:
                return
            yield block

    refused: dict[tuple[str, str], int] = {}
    count = 0
    for done in pool.run(in_time()):
        if not (folder / IDENTITY).is_file():
            write_whole(folder / IDENTITY, json.dumps(identity, indent=1, sort_keys=True).encode())
        append_records(folder, done.records)
        pace.learn(done)
        for entry in done.refused:
            refused[entry] = refused.get(entry, 0) + 1
        count += 1
        each(count, len(blocks))
    return Outcome(len(blocks), count, refused)


def evaluation_records(folder: Path, suite: str) -> list[Record]:
    """The records of a folder, all of one suite.

    Raises:
        RequestError: there is none.
    """
    records = [record for record in read_records(folder) if record.suite == suite]
    if not records:
        raise RequestError(
            f"no picture of suite {suite} was made in the time there was; expected at least one"
            " case, so give a longer --budget"
        )
    return records
