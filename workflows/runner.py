"""A whole batch: what is missing, made job by job, until all is there or has failed too often."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from compose.errors import ComposeError
from compose.lines import Journal
from compose.pools import Ended, Pool
from compose.whole import write_whole
from compose_app.identity import pixels_hash

from .manifest import NAME, Entry, check_identity, first_line, read_manifest
from .plan import Item, Job, fingerprint


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        data: a whole PNG file.
        seconds: that it took.
        warnings: what the user should know.
    """

    data: bytes
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


Pictures = tuple[Picture, ...]
"""What a worker makes of a job: one for each of its items."""


@dataclass(frozen=True)
class Outcome:
    """What a batch came to.

    Attributes:
        wanted: pictures of the batch.
        made: pictures made in this run.
        entries: of all that are done, by the name of the item.
        failed: last entry of those that are not.
        crash: of a failure that is our fault, the traceback; empty where there is none.
    """

    wanted: int
    made: int
    entries: Mapping[str, Entry]
    failed: tuple[Entry, ...]
    crash: str = ""


def items_hash(jobs: Iterable[Job]) -> str:
    """Identity of what a batch makes: of its pictures, and of which share denoiser calls."""
    return fingerprint(sorted(file for job in jobs for file in job.files))


def run_batch(
    jobs: Sequence[Job],
    pool: Callable[[], Pool[Job, Pictures]],
    folder: Path,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    retries: int = 2,
    each: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Make what is missing, and write it down.

    A picture's file appears whole, then its line; so after a crash whatever has a file counts, and
    a line that is missing is written. Whoever works: only this process writes.

    Args:
        jobs: of the batch.
        pool: opens a pool of workers; not asked where nothing is missing.
        folder: of the pictures and the manifest.
        identity: whatever changes a picture; "items" is added.
        resume: go on with the batch that lies there.
        retries: how often a job that failed is tried again.
        each: called with the number of pictures that ended in this run, and of those that have to.
        warn: told what workers warn of.

    Raises:
        BatchError: another batch lies there, or one that is not to go on.
        ComposeError: workers cannot begin at all.
    """
    identity = {"items": items_hash(jobs), **identity}
    before = read_manifest(folder)
    check_identity(before.identity, identity, folder, resume=resume)
    with Journal(folder / NAME) as journal:
        if before.identity is None:
            journal.add([first_line(identity)])
        run = _Run(folder, journal, before.done(), each, warn)
        run.take_stock(jobs)
        left = run.missing(jobs)
        run.total = sum(len(missing) for _, missing in left)
        if left:
            with pool() as workers:
                run.work_off(workers, [job for job, _ in left], retries)
    failed = tuple(run.failed[name] for name in sorted(run.failed))
    wanted = sum(len(job.items) for job in jobs)
    return Outcome(wanted, run.made, run.done, failed, run.crash)


class _Run:
    """One run of a batch, on its way."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        done: dict[str, Entry],
        each: Callable[[int, int], None],
        warn: Callable[[str], None],
    ) -> None:
        self.folder, self.journal, self.done = folder, journal, done
        self.each, self.warn = each, warn
        self.failed: dict[str, Entry] = {}
        self.attempts: Counter[str] = Counter()
        self.total = self.ended = self.made = 0
        self.crash = ""

    def take_stock(self, jobs: Iterable[Job]) -> None:
        """Believe files, not lines: a picture without its file is made again, and one without its
        line gets one."""
        for job in jobs:
            for item, file in zip(job.items, job.files, strict=True):
                path = self.folder / file
                if not path.is_file():
                    self.done.pop(item.name, None)
                elif item.name not in self.done:
                    self._keep(item, file, path.read_bytes(), attempt=1)
        for part in self.folder.glob(".*-????-????????.png.*.part"):
            part.unlink()

    def missing(self, jobs: Iterable[Job]) -> list[tuple[Job, list[Item]]]:
        """Jobs with pictures that are not there, and these."""
        found = [(job, [i for i in job.items if i.name not in self.done]) for job in jobs]
        return [(job, items) for job, items in found if items]

    def work_off(self, pool: Pool[Job, Pictures], jobs: Sequence[Job], retries: int) -> None:
        """Make jobs; those that fail come again at the end, so often."""
        for last in [False] * retries + [True]:
            again = []
            for ended in pool.run(jobs):
                left = sum(item.name not in self.done for item in ended.job.items)
                self.attempts[ended.job.files[0]] += 1
                if ended.error is not None:
                    self._failed(ended)
                    again.append(ended.job)
                else:
                    self._made(ended.job, ended.result())
                if last or ended.error is None:
                    self.ended += left
                    self.each(self.ended, self.total)
            jobs = again
            if not jobs:
                return

    def _made(self, job: Job, pictures: Pictures) -> None:
        for item, file, picture in zip(job.items, job.files, pictures, strict=True):
            for warning in picture.warnings:
                self.warn(warning)
            if item.name in self.done:  # its job came again for the sake of another one
                continue
            write_whole(self.folder / file, picture.data)
            self.made += 1
            attempt = self.attempts[job.files[0]]
            self._keep(item, file, picture.data, picture.seconds, attempt=attempt)

    def _keep(
        self, item: Item, file: str, data: bytes, seconds: float = 0.0, *, attempt: int
    ) -> None:
        self.failed.pop(item.name, None)
        entry = Entry(
            state="done",
            sha256=pixels_hash(Image.open(BytesIO(data)).convert("RGB")),
            bytes_sha256=hashlib.sha256(data).hexdigest(),
            seconds=round(seconds, 3),
            **_told(item, file, attempt),
        )
        self.journal.add([entry.to_json()])
        self.done[item.name] = entry

    def _failed(self, ended: Ended[Job, Pictures]) -> None:
        error, job = ended.error, ended.job
        if not isinstance(error, ComposeError):
            self.crash = str(error)
        for item, file in zip(job.items, job.files, strict=True):
            if item.name not in self.done:
                told = _told(item, file, self.attempts[job.files[0]])
                entry = Entry(state="failed", error=f"{type(error).__name__}: {error}", **told)
                self.journal.add([entry.to_json()])
                self.failed[item.name] = entry


def _told(item: Item, file: str, attempt: int) -> dict[str, Any]:
    return {
        "item": item.name,
        "file": file,
        "attempt": attempt,
        "seed": item.seed,
        "axes": dict(item.axes),
        "prompt": item.request["prompt"],
    }
