"""Jobs worked off in this process or in several, each with what came of it.

Every worker computes with one thread. The bytes of a picture depend on the number of threads, so
this makes them the same for any number of workers, and on the few cores of a common machine several
workers of one thread each get more done than one of several threads.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from signal import SIG_IGN, SIGINT, signal
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, cast

from compose.errors import ComposeError, WorkerLostError

J = TypeVar("J")
A = TypeVar("A")
THREADS = 1
"""Of every worker, whatever the machine."""
Make = Callable[[int], Callable[[J], A]]
"""Makes what a worker works with, from the number of its place (0 to workers - 1)."""


@dataclass(frozen=True)
class Ended(Generic[J, A]):
    """A job that is over.

    Attributes:
        job: as given.
        answer: what came of it.
        error: why nothing did: a ComposeError, `WorkerLostError` where the worker died, or
            whatever else was raised.
    """

    job: J
    answer: A | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, job: J, answer: A | Exception) -> Ended[J, A]:
        """From what `Worker.answer` gave.

        Raises:
            Exception: the worker could not be made ready, whatever the job.
        """
        if isinstance(answer, UnableError):
            raise answer.error
        return cls(job, error=answer) if isinstance(answer, Exception) else cls(job, answer)

    def result(self) -> A:
        """The answer; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return cast(A, self.answer)


class Pool(Protocol[J, A]):
    """Works off jobs while its context is open."""

    workers: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...

    def run(self, jobs: Iterable[J]) -> Iterator[Ended[J, A]]:
        """Work off jobs, each taken when there is somebody free for it.

        Yields:
            Every job as it ends, in any order.

        Raises:
            Exception: a worker could not be made ready, whatever the job.
        """
        ...


class Inline(Generic[J, A]):
    """Works in this process, one job after another.

    Args:
        make: as of `Make`; called when the first job comes.
    """

    workers = 1

    def __init__(self, make: Make[J, A]) -> None:
        self._make = make
        self._work: Callable[[J], A] | None = None
        self._threads: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._threads is not None:
            set_threads(self._threads)

    def run(self, jobs: Iterable[J]) -> Iterator[Ended[J, A]]:
        """As of `Pool`."""
        for job in jobs:
            if self._work is None:
                self._work = self._make(0)
                self._threads = set_threads(THREADS)
            try:
                answer = self._work(job)
            except Exception as error:
                yield Ended(job, error=error)
            else:
                yield Ended(job, answer)


class UnableError(Exception):
    """A worker that could not be made ready."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Worker(Generic[J, A]):
    """Answers jobs in a process that was made for it; errors are answers too.

    Args:
        make, number: as of `Make`; called when the first job comes.
    """

    def __init__(self, make: Make[J, A], number: int) -> None:
        self._make = make
        self._number = number
        self._work: Callable[[J], A] | None = None

    def answer(self, job: J) -> A | Exception:
        """What came of a job, in a form that can be sent."""
        try:
            self._work = self._work or self._ready()
            return self._work(job)
        except (ComposeError, UnableError) as error:
            return error
        except Exception:
            return RuntimeError(f"in a worker process:\n{traceback.format_exc()}")

    def _ready(self) -> Callable[[J], A]:
        try:
            work = self._make(self._number)
        except ComposeError as error:
            raise UnableError(error) from None
        except Exception:
            told = f"in a worker process:\n{traceback.format_exc()}"
            raise UnableError(RuntimeError(told)) from None
        set_threads(THREADS)
        return work


@dataclass(frozen=True)
class _Place:
    """A worker process and its number."""

    number: int
    process: BaseProcess


class Processes(Generic[J, A]):
    """Works in fresh processes. One that dies takes its job with it and is replaced.

    Args:
        make: as of `Make`; it is sent to the processes, as are jobs.
        workers: how many.
    """

    def __init__(self, make: Make[J, A], workers: int) -> None:
        self.workers = workers
        self._make = make
        self._places: dict[Connection, _Place] = {}

    def __enter__(self) -> Self:
        for number in range(self.workers):
            self._start(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for line, place in self._places.items():
            line.close()
            place.process.terminate()
            place.process.join()
        self._places.clear()

    def run(self, jobs: Iterable[J]) -> Iterator[Ended[J, A]]:
        """As of `Pool`."""
        todo = iter(jobs)
        idle, busy = list(self._places), dict[Connection, J]()
        exhausted = False
        while busy or not exhausted:
            while idle and not exhausted:
                try:
                    job = next(todo)
                except StopIteration:
                    exhausted = True
                    break
                line = self._alive(idle.pop())
                with suppress(BrokenPipeError):  # it died just now: its answer will say so
                    line.send(job)
                busy[line] = job
            for line in cast(list[Connection], wait(list(busy)) if busy else []):
                ended = self._ended(line, busy.pop(line))
                idle.append(
                    self._replace(line) if isinstance(ended.error, WorkerLostError) else line
                )
                yield ended

    def _start(self, number: int) -> Connection:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._make, number, theirs), daemon=True)
        process.start()
        theirs.close()
        self._places[ours] = _Place(number, process)
        return ours

    def _alive(self, line: Connection) -> Connection:
        """A worker, or the one that takes its place if it died while it had nothing to do."""
        return line if self._places[line].process.is_alive() else self._replace(line)

    def _replace(self, line: Connection) -> Connection:
        line.close()
        return self._start(self._places.pop(line).number)

    def _ended(self, line: Connection, job: J) -> Ended[J, A]:
        try:
            return Ended.of(job, line.recv())
        except (EOFError, ConnectionResetError):
            process = self._places[line].process
            process.join()
            return Ended(job, error=_lost(process))


def _lost(process: BaseProcess) -> WorkerLostError:
    return WorkerLostError(
        f"a worker process ended by itself (exit status {process.exitcode}), most likely for want"
        " of memory; expected it to work to the end, so use fewer --workers"
    )


def _serve(make: Make[J, A], number: int, line: Connection) -> None:
    """The life of a worker process: a job in, what came of it out, until the line closes."""
    signal(SIGINT, SIG_IGN)  # an interrupt reaches the whole group; the parent ends it in order
    warnings.simplefilter("ignore")
    worker = Worker(make, number)
    while True:
        try:
            job = line.recv()
        except EOFError:
            return
        try:
            line.send(worker.answer(job))
        except BrokenPipeError:
            return


def set_threads(number: int) -> int | None:
    """With how many threads torch computes from now on.

    Where nobody has imported torch there is nothing to set: the import alone takes seconds.

    Returns:
        How many it were.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    before = int(torch.get_num_threads())
    torch.set_num_threads(number)
    return before
