"""Evaluations with the embedded model, two steps a picture."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from compose import fusion
from compose.errors import AdapterError, ModelError, RequestError
from compose.evaluate.cases import make_cases
from compose.evaluate.features import NAME as FEATURES
from compose.evaluate.features import update_features
from compose.evaluate.pools import Inline, Pool, Processes
from compose.evaluate.records import NAME, Record, read_records
from compose.evaluate.rows import controls
from compose.evaluate.runner import Pace, evaluate, missing_blocks
from compose.evaluate.worker import Block, Setting, Worker
from compose.fusion.merge import Merge
from compose.run import Run
from tests.evaluate.known import suite

ROWS = ("alone", "prompt_only", "merge", "random", "shuffled")
SUITE = suite(("ember", "bolt"), ("biscuit", "sunvo"))
WORK = make_cases(SUITE, 1)
LONGER = make_cases(SUITE, 3)


def setting(folder: Path) -> Setting:
    return Setting("planted", folder, 2, device="cpu")


def run(folder: Path, pool: Pool) -> list[Record]:
    blocks = missing_blocks(WORK, ROWS, read_records(folder))
    evaluate(pool, blocks, folder, Pace(), identity={})
    update_features(folder, read_records(folder))
    return read_records(folder)


def inline(folder: Path) -> list[Record]:
    with Inline(setting(folder)) as pool:
        return run(folder, pool)


def told(folder: Path) -> list[Record]:
    """One picture of each of several cases; says when each is there."""
    blocks = missing_blocks(LONGER, ("prompt_only",), read_records(folder))
    with Inline(setting(folder)) as pool:
        each = partial(print, flush=True)
        evaluate(pool, blocks, folder, Pace(), identity={}, each=each)
    return read_records(folder)


def lasting(records: Sequence[Record]) -> list[Record]:
    """Records without what depends on the clock and on the load of the machine."""
    changing = ("seconds", "memory")
    return [
        replace(r, cost={k: v for k, v in r.cost.items() if k not in changing}) for r in records
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the records."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != NAME
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("once")
    return folder, inline(folder)


def test_every_row_of_every_case_is_there_with_what_it_cost(once) -> None:
    folder, records = once
    assert [(r.case, r.seed, r.row) for r in records] == [
        (case.name, seed, row) for case, seed in WORK for row in ROWS
    ]
    for record in records:
        passes = {"alone": 2}.get(record.row, 1)
        assert record.cost["forwards"] == 2 * passes  # steps
        assert record.cost["rows"] == 4 * passes  # with guidance
        assert record.cost["seconds"] > 0
        with Image.open(folder / record.image) as picture:
            assert picture.size == (128 * passes, 128)
        shown = {name.split("/")[1] for name in record.measures if "/" in name}
        assert shown == set(record.adapters)
        assert ("retention" in record.measures) == (record.row != "alone")
    assert {r.row: r.control for r in records} == {row: row != "merge" for row in ROWS}


def test_false_adapters_change_the_picture_and_each_in_its_own_way(once) -> None:
    folder, records = once
    pictures = {(r.case, r.seed, r.row): (folder / r.image).read_bytes() for r in records}
    for case, seed in WORK:
        assert len({pictures[case.name, seed, row] for row in ROWS}) == len(ROWS)


def test_two_runs_agree_bit_for_bit(once, tmp_path) -> None:
    folder, records = once
    assert lasting(inline(tmp_path)) == lasting(records)
    assert contents(tmp_path) == contents(folder)
    assert FEATURES in contents(folder)


def test_processes_give_what_one_process_gives(once, tmp_path) -> None:
    folder, records = once
    with Processes(setting(tmp_path), 2) as pool:
        assert lasting(run(tmp_path, pool)) == lasting(records)
    assert contents(tmp_path) == contents(folder)


KILLED = """
import sys
from pathlib import Path
from tests.evaluate.test_evaluation import told
told(Path(sys.argv[1]))
"""


def test_a_run_that_is_killed_goes_on_to_the_same_end(tmp_path) -> None:
    whole, folder = told(tmp_path / "whole"), tmp_path / "killed"
    running = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert running.stdout is not None and running.stdout.readline() == b"1 6\n"
    running.send_signal(signal.SIGKILL)
    running.communicate()
    kept = read_records(folder)
    assert 1 <= len(kept) < len(whole)
    end = told(folder)
    assert end[: len(kept)] == kept
    assert lasting(end) == lasting(whole)
    assert contents(folder) == contents(tmp_path / "whole")


@dataclass(frozen=True, kw_only=True)
class Newcomer(Merge):
    """A method that nobody has heard of; it does not like styles."""

    name: ClassVar[str] = "newcomer"

    def check(self, run: Run) -> None:
        super().check(run)
        if any(adapter.category == "style" for adapter in run.adapters):
            raise RequestError("newcomer got a style; expected none, leave it out")


def test_a_new_method_is_evaluated_with_no_edit_and_its_refusals_are_told(
    once, tmp_path, monkeypatch
) -> None:
    from compose.evaluate import rows
    from compose.evaluate.rows import method_rows

    known = {**fusion.methods(), "newcomer": Newcomer}
    monkeypatch.setattr(fusion, "methods", lambda: known)
    monkeypatch.setattr(rows, "methods", lambda: known)
    names = [row.name for row in method_rows()[0]]
    assert names == [*known]
    with Inline(setting(tmp_path)) as pool:
        blocks = missing_blocks(WORK, ("newcomer",), [])
        outcome = evaluate(pool, blocks, tmp_path, Pace(), identity={})
    assert outcome.refused == {("newcomer", "newcomer got a style; expected none, leave it out"): 1}
    made = {(r.case, r.seed): r for r in read_records(tmp_path)}
    plain = {(r.case, r.seed): r for r in once[1] if r.row == "merge"}
    assert len(made) == 1
    for key, record in made.items():
        assert not record.control
        assert (tmp_path / record.image).read_bytes() == (once[0] / plain[key].image).read_bytes()


def test_needs_that_cannot_be_met_are_said_or_refused(monkeypatch) -> None:
    from compose.evaluate import rows

    class Placed(Newcomer):
        name = "placed"
        needs = frozenset({"telepathy", "prompt"})

    known = {**fusion.methods(), "placed": Placed}
    monkeypatch.setattr(fusion, "methods", lambda: known)
    monkeypatch.setattr(rows, "methods", lambda: known)
    found, left_out = rows.method_rows()
    assert "placed" not in [row.name for row in found]
    assert left_out == ("method placed needs telepathy, which suites cannot give yet",)
    with pytest.raises(RequestError, match=r"placed needs telepathy.*leave it out"):
        rows.method_rows(["merge", "placed"])


def test_a_control_that_fails_is_no_refusal(tmp_path) -> None:
    case, seed = WORK[0]
    strange = replace(case, adapters=("nobody",))
    with pytest.raises(AdapterError, match="nobody"):
        Worker(setting(tmp_path)).run(Block(strange, seed, ("random",)))


def test_a_trial_writes_nothing_and_says_how_long_it_would_take(tmp_path) -> None:
    case, seed = WORK[0]
    worker = Worker(replace(setting(tmp_path), steps=1000))
    done = worker.run(Block(case, seed, ("prompt_only", "rendered"), trial=True))
    assert list(tmp_path.iterdir()) == []
    assert done.seconds["prompt_only"] > 100 * done.records[0].cost["seconds"] / 2
    assert done.records[0].cost["forwards"] == 1
    assert done.seconds["rendered"] < done.seconds["prompt_only"]


def test_what_goes_wrong_in_a_worker_reaches_the_caller(tmp_path) -> None:
    blocks = missing_blocks(WORK, ("prompt_only",), [])
    with (
        Processes(replace(setting(tmp_path), model=str(tmp_path)), 1) as pool,
        pytest.raises(ModelError, match="no model at"),
    ):
        list(pool.run(blocks))


def test_nothing_to_do_ends_at_once(tmp_path) -> None:
    with Processes(setting(tmp_path), 1) as pool:
        assert list(pool.run([])) == []


def test_the_controls_are_all_there() -> None:
    assert [row.name for row in controls()] == [
        *("alone", "rendered", "prompt_only", "merge_mean", "merge_root", "random", "shuffled")
    ]
