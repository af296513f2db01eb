"""Where blocks are worked off: in this process, or in several.

Every worker computes with one thread. The bytes of a picture depend on the number of threads, so
this makes them the same for any number of workers, and on the few cores of a common machine several
workers of one thread each get more done than one of several threads.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from signal import SIG_IGN, SIGINT, signal
from types import TracebackType
from typing import Protocol, Self, cast

import torch

from compose.errors import ComposeError, RequestError
from compose.evaluate.worker import Block, Done, Setting, Worker


class Pool(Protocol):
    """Works off blocks while its context is open."""

    workers: int

    def run(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """Work off blocks, each taken when there is somebody free for it.

        Yields:
            What came of them, in the order in which they were taken.

        Raises:
            ComposeError: as of `Worker.run`.
        """
        ...


class Inline:
    """Works in this process, one block after another."""

    workers = 1

    def __init__(self, setting: Setting) -> None:
        self._worker = Worker(setting)
        self._threads = torch.get_num_threads()

    def __enter__(self) -> Self:
        torch.set_num_threads(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        torch.set_num_threads(self._threads)

    def run(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """As of `Pool`."""
        return map(self._worker.run, blocks)


class Processes:
    """Works in fresh processes, each with a model of its own.

    Args:
        setting: for every worker.
        workers: how many.
    """

    def __init__(self, setting: Setting, workers: int) -> None:
        self.workers = workers
        self._setting = setting
        self._processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> Self:
        context = get_context("spawn")
        for _ in range(self.workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(self._setting, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for line, process in self._processes.items():
            line.close()
            process.terminate()
            process.join()
        self._processes.clear()

    def run(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """As of `Pool`."""
        todo = iter(blocks)
        idle, busy = list(self._processes), dict[Connection, int]()
        ready: dict[int, Done] = {}
        taken = given = 0
        exhausted = False
        while busy or not exhausted:
            while idle and not exhausted:
                block = next(todo, None)
                if block is None:
                    exhausted = True
                else:
                    line = idle.pop()
                    with suppress(BrokenPipeError):  # a dead worker: its answer will say so
                        line.send(block)
                    busy[line] = taken
                    taken += 1
            while given in ready:
                yield ready.pop(given)
                given += 1
            for line in cast(list[Connection], wait(list(busy)) if busy else []):
                ready[busy.pop(line)] = self._answer(line)
                idle.append(line)
        for number in range(given, taken):
            yield ready[number]

    def _answer(self, line: Connection) -> Done:
        try:
            answer = line.recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[line]
            process.join()
            raise RequestError(
                f"a worker process ended by itself (exit status {process.exitcode}), most likely"
                " for want of memory; expected it to work to the end, so use fewer --workers"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return cast(Done, answer)


def _serve(setting: Setting, line: Connection) -> None:
    """The life of a worker process: a block in, what came of it out, until the line closes."""
    signal(SIGINT, SIG_IGN)  # an interrupt reaches the whole group; the parent ends it in order
    warnings.simplefilter("ignore")
    _hush()
    torch.set_num_threads(1)
    worker = Worker(setting)
    while True:
        try:
            block = line.recv()
        except EOFError:
            return
        answer: Done | Exception
        try:
            answer = worker.run(block)
        except ComposeError as error:
            answer = error
        except Exception:
            answer = RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
        try:
            line.send(answer)
        except BrokenPipeError:
            return


def _hush() -> None:
    """Keep the notices and bars of libraries from the terminal, which the parent writes to."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
