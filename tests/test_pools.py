"""Workers: what they answer, what becomes of those that die, and files that only grow."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compose.errors import RequestError, WorkerLostError
from compose.lines import Journal, read_lines
from compose.pools import THREADS, Inline, Processes, Worker


def squares(number: int) -> Callable[[int], int]:
    """Squares; dies at 13, refuses negative numbers, is broken at 99."""
    del number

    def work(value: int) -> int:
        if value == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if value < 0:
            raise RequestError(f"{value} is negative; expected another")
        if value == 99:
            raise KeyError(value)
        return value * value

    return work


def unable(number: int) -> Callable[[int], int]:
    raise RequestError("no model; expected one")


def test_every_job_ends_once_whatever_becomes_of_its_worker() -> None:
    with Processes(squares, 2) as pool:
        ended = {one.job: one for one in pool.run([1, 13, 2, -1, 99, 3])}
        assert {job: one.answer for job, one in ended.items() if one.error is None} == {
            1: 1,
            2: 4,
            3: 9,
        }
        assert isinstance(ended[13].error, WorkerLostError)
        assert "exit status -9" in str(ended[13].error)
        assert isinstance(ended[-1].error, RequestError)
        assert "KeyError: 99" in str(ended[99].error)
        assert [one.result() for one in pool.run([5])] == [25]  # whoever died was replaced
        with pytest.raises(RequestError, match="negative"):
            next(iter(pool.run([-1]))).result()


def test_a_worker_that_cannot_begin_ends_the_run() -> None:
    with Processes(unable, 1) as pool, pytest.raises(RequestError, match="no model"):
        list(pool.run([1, 2, 3]))
    with Inline(unable) as here, pytest.raises(RequestError, match="no model"):
        list(here.run([1]))


def test_this_process_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Inline(lambda number: lambda job: torch.get_num_threads()) as pool:
            assert [one.answer for one in pool.run("ab")] == [THREADS, THREADS]
        assert torch.get_num_threads() == 2
        worker = Worker(lambda number: lambda job: torch.get_num_threads(), 0)
        assert worker.answer("x") == THREADS
    finally:
        torch.set_num_threads(before)


def test_a_journal_keeps_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    assert read_lines(path) == []
    with Journal(path) as journal:
        journal.add(["one", "zwölf"])
        assert read_lines(path) == ["one", "zwölf"]
    path.write_bytes(path.read_bytes() + "tö".encode()[:-1])
    assert read_lines(path) == ["one", "zwölf"]
    with Journal(path) as journal:
        journal.add(["three"])
    assert path.read_text() == "one\nzwölf\nthree\n"


def test_gpus_are_shared_out_one_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from compose.models.options import USUAL
    from compose_workflows.executors import visible_gpus
    from compose_workflows.maker import StudioMaker

    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-7"}) == ("3", "GPU-7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    StudioMaker("cuda", "auto", USUAL, visible=("3", "GPU-7"))(3)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-7"
