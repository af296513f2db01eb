"""What is left to do, in which order, until when.

The pool makes nothing, and the clock shows what the pool says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from compose.errors import RequestError
from compose.evaluate.cases import make_cases
from compose.evaluate.records import NAME, Record, read_records
from compose.evaluate.runner import (
    IDENTITY,
    Pace,
    check_folder,
    estimate,
    evaluate,
    evaluation_records,
    missing_blocks,
    try_out,
)
from compose.evaluate.worker import Block, Done
from tests.evaluate.known import suite

ROWS = ("alone", "merge", "switch", "picky")
SECONDS = {"alone": 2.0, "merge": 1.0, "switch": 1.0, "picky": 0.0}
WORK = make_cases(suite(("ember", "bolt"), ("biscuit", "domino", "bolt")), 3)
IDENT = {"suite": "planted", "steps": 2}


class Pool:
    """Takes the seconds of its rows, twice as long with three adapters; "picky" refuses pairs."""

    workers = 1

    def __init__(self) -> None:
        self.now = 0.0
        self.taken: list[Block] = []

    def clock(self) -> float:
        return self.now

    def run(self, blocks: Iterable[Block]) -> Iterator[Done]:
        for block in blocks:
            self.taken.append(block)
            count = len(block.case.adapters)
            refused = tuple((r, "needs three") for r in block.rows if r == "picky" and count == 2)
            rows = [r for r in block.rows if r not in dict(refused)]
            seconds = {row: SECONDS[row] * (count - 1) for row in rows}
            self.now += 0.1 if block.trial else sum(seconds.values())
            yield Done(block, tuple(record(block, row) for row in rows), refused, seconds)


def record(block: Block, row: str) -> Record:
    name, seed = block.case.name, block.seed
    measures = {"primary/ember": 1.0}
    return Record("planted", name, row, False, seed, block.case.adapters, "", "", measures)


def run(folder: Path, pool: Pool, rows=ROWS, until=None, work=WORK):
    blocks = missing_blocks(work, rows, read_records(folder))
    return evaluate(
        pool, blocks, folder, try_out(pool, blocks), identity=IDENT, until=until, clock=pool.clock
    )


def test_a_budget_leaves_whole_cases_and_a_prefix_of_the_work(tmp_path) -> None:
    pool = Pool()
    outcome = run(tmp_path, pool, until=21.0)  # 0.2 for trials; a pair takes 4 s, a triple 8 s
    assert 0 < outcome.done < outcome.wanted == len(WORK)
    assert pool.now <= 21.0
    made = [block for block in pool.taken if not block.trial]
    assert [(b.case, b.seed) for b in made] == WORK[: len(made)]
    by_block = {(c.name, s): set() for c, s in WORK[: len(made)]}
    for one in read_records(tmp_path):
        by_block[one.case, one.seed].add(one.row)
    for (case, _), rows in by_block.items():
        assert rows == ({*ROWS} if case.count("+") == 2 else {*ROWS} - {"picky"})


def test_a_budget_that_is_too_short_for_one_case_makes_nothing(tmp_path) -> None:
    outcome = run(tmp_path, Pool(), until=3.0)
    assert outcome.done == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match="longer --budget"):
        evaluation_records(tmp_path, "planted")


def test_a_cut_run_goes_on_where_it_was(tmp_path) -> None:
    first, second = Pool(), Pool()
    cut = run(tmp_path, first, until=15.0)
    run(tmp_path, second)
    made = [(b.case.name, b.seed) for b in first.taken + second.taken if b.rows == ROWS]
    assert 0 < cut.done < len(WORK) and {(c.name, s) for c, s in WORK} == {*made}
    keys = [one.key for one in read_records(tmp_path)]
    assert len(keys) == len(set(keys)) == 3 * 3 + 3 * 4
    third = Pool()
    again = run(tmp_path, third)  # only what was refused is asked again
    assert {b.rows for b in third.taken} == {("picky",)}
    assert again.refused == {("picky", "needs three"): 3}


def test_a_torn_line_is_made_again_and_only_that(tmp_path) -> None:
    run(tmp_path, Pool(), rows=ROWS[:3])
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    pool = Pool()
    run(tmp_path, pool, rows=ROWS[:3])
    made = [block for block in pool.taken if not block.trial]
    assert [(b.case, b.seed, b.rows) for b in made] == [(*WORK[-1], ("switch",))]
    assert path.read_bytes() == whole


def test_a_later_method_joins_with_the_ceiling_that_is_there(tmp_path) -> None:
    run(tmp_path, Pool(), rows=("alone", "merge"))
    pool = Pool()
    run(tmp_path, pool, rows=("alone", "merge", "switch"))
    made = [block for block in pool.taken if not block.trial]
    assert all(b.rows == ("switch",) and b.ceiling == {"primary/ember": 1.0} for b in made)
    assert len(made) == len(WORK)


def test_more_seeds_join(tmp_path) -> None:
    run(tmp_path, Pool(), work=WORK[:2])
    pool = Pool()
    run(tmp_path, pool, rows=ROWS[:3])
    assert [(b.case, b.seed) for b in pool.taken if not b.trial] == WORK[2:]


def test_the_estimate_is_what_trials_say_and_then_what_was_made() -> None:
    pool, blocks = Pool(), missing_blocks(WORK, ROWS, [])
    pace = try_out(pool, blocks)
    assert [b.trial for b in pool.taken] == [True, True]  # one of each number of adapters
    ahead = estimate(pace, blocks, workers=2)
    assert (ahead.blocks, ahead.pictures) == (6, 24)
    assert ahead.seconds == (3 * 4 + 3 * 8) / 2
    slow = {row: 10.0 for row in ROWS}
    pace.learn(Done(blocks[0], (), (), slow))
    pace.learn(Done(blocks[0], (), (), {row: 20.0 for row in ROWS}))
    assert pace.expect(blocks[0]) == 4 * 15.0


def test_every_worker_is_tried_once() -> None:
    pool = Pool()
    pool.workers = 4
    try_out(pool, missing_blocks(WORK, ROWS, []))
    assert [len(b.case.adapters) for b in pool.taken].count(2) == 2 and len(pool.taken) == 4
    try_out(pool, missing_blocks(WORK[:1], ROWS, []))
    assert len(pool.taken) == 5
    assert list(try_out(pool, []).trials) == []


def test_records_of_another_kind_are_not_mixed(tmp_path) -> None:
    check_folder(tmp_path, IDENT)
    run(tmp_path, Pool())
    check_folder(tmp_path, IDENT)
    with pytest.raises(RequestError, match="another steps"):
        check_folder(tmp_path, {**IDENT, "steps": 20})
    with pytest.raises(RequestError, match="another model"):
        check_folder(tmp_path, {**IDENT, "model": "x"})
    (tmp_path / IDENTITY).write_text("[")
    with pytest.raises(RequestError, match="cannot be read"):
        check_folder(tmp_path, IDENT)


def test_pace_knows_nothing_of_strangers() -> None:
    assert Pace().expect(missing_blocks(WORK, ROWS, [])[0]) == 0.0
