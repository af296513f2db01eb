"""One thread that owns the model, and the jobs that wait for it.

Browsers come and go in threads of their own; they hand in jobs and read what becomes of them. Only
the worker's thread ever touches the composer.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from compose.adapters.library import AdapterLibrary
from compose.errors import ComposeError, RequestError
from compose.request import Request

from ..metadata import Recipe
from ..order import Setting
from ..replaying import differences
from ..studio import Studio

MAX_WAITING = 32
"""Most jobs that wait at once."""
_LOOK = 0.5  # seconds between two looks at a job that waits for others


class Cancelled(Exception):
    """Ends a job between two steps."""


@dataclass(frozen=True)
class Waiting:
    """A job that has not begun: how many are before it."""

    ahead: int


@dataclass(frozen=True)
class Ended:
    """A job that is over. `error` is a sentence; empty when all went well or it was cancelled."""

    error: str = ""
    cancelled: bool = False


Event = Any
"""`Waiting`, `Ended`, or whatever the job's own work puts."""


@dataclass(eq=False)
class Job:
    """Work for the model, on behalf of one browser.

    Attributes:
        owner: the browser.
        work: what is to be done, in the worker's thread.
    """

    owner: str
    work: Callable[[Studio, Job], None]
    _events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)

    def put(self, event: Event) -> None:
        """Tell the browser something."""
        self._events.put(event)

    def check(self) -> None:
        """Raises `Cancelled` when the browser wants no more."""
        if self._stop.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """Ask for the end, which comes at the next `check`."""
        self._stop.set()


class Worker:
    """Owns a `Studio` in a thread and works off jobs, one at a time, first come first served.

    Args:
        setting: model and machine.
        library: where adapters are looked up.
    """

    def __init__(self, setting: Setting, library: AdapterLibrary) -> None:
        self.setting = setting
        self.library = library
        self._jobs: deque[Job] = deque()  # the first one is at work
        self._changed = threading.Condition()
        self._closed = False
        self._opened: queue.SimpleQueue[Studio | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="composer", daemon=True)

    def start(self) -> Studio:
        """Load the model. Of what comes back only facts may be read, never the composer used.

        Raises:
            ComposeError: as `Studio.open`.
        """
        self._thread.start()
        opened = self._opened.get()
        if isinstance(opened, BaseException):
            raise opened
        self._studio = opened
        return opened

    def close(self) -> None:
        """Cancel everything and wait for the thread to end."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.cancel()
            self._changed.notify()
        self._thread.join()

    def submit(self, owner: str, work: Callable[[Studio, Job], None]) -> Job:
        """Hand in work.

        Raises:
            RequestError: too many jobs wait already.
        """
        job = Job(owner, work)
        with self._changed:
            if len(self._jobs) > MAX_WAITING:
                raise RequestError(
                    f"{MAX_WAITING} jobs are waiting already; expected fewer, so try again later"
                )
            self._jobs.append(job)
            self._changed.notify()
        return job

    def cancel(self, owner: str) -> None:
        """Cancel every job of a browser."""
        with self._changed:
            for job in self._jobs:
                if job.owner == owner:
                    job.cancel()

    def follow(self, job: Job) -> Iterator[Event]:
        """What becomes of a job, up to its `Ended`. Whoever stops listening cancels it."""
        ahead = -1
        try:
            while True:
                try:
                    event = job._events.get(timeout=_LOOK if ahead else None)
                except queue.Empty:
                    now = self._ahead(job)
                    if now != ahead:
                        yield Waiting(now)
                    ahead = now
                    continue
                ahead = 0
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            job.cancel()

    def differences(self, recipe: Recipe, request: Request) -> list[str]:
        """What is not as it was when a picture was made. Reads files only, so it need not wait."""
        return differences(recipe, self._studio, request)

    def _ahead(self, job: Job) -> int:
        with self._changed:
            return self._jobs.index(job) if job in self._jobs else 0

    def _run(self) -> None:
        try:
            studio = Studio.open(self.setting, self.library)
        except BaseException as error:
            self._opened.put(error)
            return
        self._opened.put(studio)
        while (job := self._next()) is not None:
            ended = _outcome(job, studio)
            with self._changed:
                self._jobs.popleft()
            job.put(ended)
        studio.composer.close()

    def _next(self) -> Job | None:
        """The job that is first, which stays in line while it is at work; None for the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return self._jobs[0] if self._jobs else None


def _outcome(job: Job, studio: Studio) -> Ended:
    try:
        job.check()
        job.work(studio, job)
    except Cancelled:
        return Ended(cancelled=True)
    except ComposeError as error:
        return Ended(str(error))
    except Exception:
        traceback.print_exc()
        return Ended("something went wrong on our side; the terminal of the app has the details")
    return Ended()
