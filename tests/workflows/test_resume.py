"""Batches that are killed, fail, or are mixed up."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from compose.errors import BatchError
from compose_workflows.manifest import NAME, read_manifest
from compose_workflows.spec import read_batch
from tests.workflows.stub import (
    Stub,
    draw,
    drawn,
    pictures,
    run_inline,
    run_processes,
)

ROOT = Path(__file__).parents[2]
SPEC = """
together: {together}
items:
  - name: cats
    prompt: a {{red|blue}} cat
    grid: {{steps: [2, 3, 4, 5, 6], guidance: [1, 2, 3, 4]}}
    count: {count}
"""


def jobs_of(folder: Path, count: int, together: int = 1):
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(count=count, together=together))
    return read_batch(path).jobs


def states(folder: Path) -> Counter[str]:
    return Counter(entry.state for entry in read_manifest(folder).entries)


def test_killed_workers_and_killed_runs_lose_nothing_and_redo_nothing(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, count=10)
    names = [item.name for job in jobs for item in job.items]
    assert len(names) == 200
    whole = tmp_path / "whole"
    assert run_inline(jobs, whole, Stub(tmp_path / "calm")).made == 200
    chance = random.Random(7)
    chosen = chance.sample(names[5:-5], 6)
    notes, folder = tmp_path / "wild", tmp_path / "killed"
    stub = {"notes": notes, "kills": frozenset(chosen[:4]), "ends": frozenset(chosen[4:])}
    (tmp_path / "batch").write_bytes(pickle.dumps((jobs, stub)))
    command = [sys.executable, "-m", "tests.workflows.stub", tmp_path / "batch", folder]
    kept: set[str] = set()
    lines = 0
    for last in (False, False, True):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == (0 if last else -9), run.stderr
        again = drawn(notes)[lines:]
        assert not kept & set(again)  # what had its picture was not drawn again
        lines = len(drawn(notes))
        kept = set(read_manifest(folder).done())
        assert last or 0 < len(kept) < 200
    assert pictures(folder) == pictures(whole) and len(pictures(whole)) == 200
    assert states(folder) == {"done": 200, "failed": 4}
    assert run.stdout.split()[1:] == ["0", "False"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_job_that_kills_its_workers_is_given_up_and_the_rest_is_made(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, count=1)
    bad = jobs[3].items[0].name
    stub = Stub(tmp_path / "notes", kills=frozenset({bad}), always=True)
    outcome = run_processes(jobs, tmp_path / "out", stub, 2)
    assert [entry.item for entry in outcome.failed] == [bad]
    assert outcome.failed[0].attempt == 3 and "exit status -9" in outcome.failed[0].error
    assert outcome.made == 19


@pytest.mark.parametrize(("times", "retries", "attempt"), [(2, 2, 3), (3, 2, 3), (1, 0, 1)])
def test_what_fails_is_tried_again_at_most_so_often(
    tmp_path: Path, times: int, retries: int, attempt: int
) -> None:
    jobs = jobs_of(tmp_path, count=1)
    bad = jobs[0].items[0].name
    stub = Stub(tmp_path / "notes", fails=((bad, times),))
    told: list[tuple[int, int]] = []
    outcome = run_inline(
        jobs, tmp_path / "out", stub, retries=retries, each=lambda *at: told.append(at)
    )
    recovered = times <= retries
    entries = [e for e in read_manifest(tmp_path / "out").entries if e.item == bad]
    assert [e.state for e in entries] == ["failed"] * min(times, retries + 1) + ["done"] * recovered
    assert entries[-1].attempt == attempt
    assert len(outcome.failed) == (0 if recovered else 1)
    assert told == [(n, 20) for n in range(1, 21)]
    if not recovered:  # a later run tries what failed, and only that
        assert "told to fail" in outcome.failed[0].error
        (tmp_path / "notes" / "drawn").unlink()
        later = run_inline(jobs, tmp_path / "out", stub, resume=True)
        assert later.made == 1 and drawn(tmp_path / "notes") == [bad]
    assert len(pictures(tmp_path / "out")) == 20


def test_a_picture_whose_line_is_missing_or_torn_is_not_made_again(tmp_path: Path) -> None:
    jobs, folder, stub = jobs_of(tmp_path, count=1), tmp_path / "out", Stub(tmp_path / "notes")
    run_inline(jobs, folder, stub)
    whole = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(whole[:-40])
    assert run_inline(jobs, folder, stub, resume=True).made == 0
    first, *lines = [json.loads(line) for line in whole.splitlines()]
    again, *others = [json.loads(line) for line in (folder / NAME).read_bytes().splitlines()]
    assert again == first and len(others) == len(lines) == 20
    assert {**others[-1], "seconds": 0} == {**lines[-1], "seconds": 0}


def test_a_line_whose_picture_is_missing_is_made_again_and_only_that(tmp_path: Path) -> None:
    jobs, folder, stub = jobs_of(tmp_path, count=1), tmp_path / "out", Stub(tmp_path / "notes")
    run_inline(jobs, folder, stub)
    before = pictures(folder)
    (folder / jobs[4].files[0]).unlink()
    assert run_inline(jobs, folder, stub, resume=True).made == 1
    assert pictures(folder) == before and drawn(stub.notes)[20:] == [jobs[4].items[0].name]


def test_rows_of_a_call_are_kept_one_by_one(tmp_path: Path) -> None:
    jobs, folder, stub = jobs_of(tmp_path, 6, 4), tmp_path / "out", Stub(tmp_path / "notes")
    assert [len(job.items) for job in jobs[:2]] == [4, 2]
    run_inline(jobs, folder, stub)
    before = pictures(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    lost = folder / jobs[0].files[2]
    lost.unlink()
    assert run_inline(jobs, folder, stub, resume=True).made == 1
    assert pictures(folder) == before
    assert before[lost.name] == draw(jobs[0], 2)
    assert all(p.stat().st_mtime_ns == then for p, then in times.items() if p != lost)


def test_batches_are_not_mixed(tmp_path: Path) -> None:
    folder, stub = tmp_path / "out", Stub(tmp_path / "notes")
    run_inline(jobs_of(tmp_path, 1), folder, stub)
    with pytest.raises(BatchError, match="--resume"):
        run_inline(jobs_of(tmp_path, 1), folder, stub)
    with pytest.raises(BatchError, match="other items"):
        run_inline(jobs_of(tmp_path, 2), folder, stub, resume=True)
    pairs = tmp_path / "pairs"
    run_inline(jobs_of(tmp_path, 2), pairs, stub)
    with pytest.raises(BatchError, match="other items"):  # other neighbours, other roundings
        run_inline(jobs_of(tmp_path, 2, together=2), pairs, stub, resume=True)
    (folder / NAME).write_text("[]\n")
    with pytest.raises(BatchError, match="cannot be read"):
        run_inline(jobs_of(tmp_path, 1), folder, stub, resume=True)
