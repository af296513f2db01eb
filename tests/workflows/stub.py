"""A maker without a model: bytes from what is asked for, and accidents at chosen items.

Run as a program it makes a batch that lies pickled in a file. Neither it nor its workers import
torch, so that they start in a moment.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from compose.errors import RequestError
from compose.pools import Inline, Processes
from compose_workflows.plan import Item, Job
from compose_workflows.runner import Picture, Pictures, run_batch

IDENTITY = {"model": "none"}


@dataclass(frozen=True)
class Stub:
    """Draws noise from a hash of the job.

    Attributes:
        notes: folder where every drawing leaves a line in ``drawn``, and accidents leave a mark.
        kills: items at which the worker is killed, once each.
        ends: items at which the process that runs the batch is killed, once each.
        fails: item to how often it fails.
        always: accidents happen every time.
    """

    notes: Path
    kills: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    fails: tuple[tuple[str, int], ...] = ()
    always: bool = False

    def __call__(self, number: int) -> Callable[[Job], Pictures]:
        return self.make

    def make(self, job: Job) -> Pictures:
        for item in job.items:
            self._accident(item)
            with (self.notes / "drawn").open("a") as log:
                log.write(item.name + "\n")
        return tuple(Picture(draw(job, index)) for index in range(len(job.items)))

    def _accident(self, item: Item) -> None:
        for name, times in self.fails:
            if item.name == name and any(self._first(f"{name}-{i}") for i in range(times)):
                raise RequestError(f"{name} was told to fail; expected nothing else")
        if item.name in self.kills and self._first(f"{item.name}-killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if item.name in self.ends and self._first(f"{item.name}-ended"):
            os.kill(os.getppid(), signal.SIGKILL)

    def _first(self, mark: str) -> bool:
        try:
            (self.notes / mark).open("x").close()
        except FileExistsError:
            return self.always
        return True


def draw(job: Job, index: int) -> bytes:
    """A small PNG, another one for every row of every job."""
    told = json.dumps([[item.request for item in job.items], index], sort_keys=True)
    pixels = b"".join(hashlib.sha256(f"{told}{i}".encode()).digest() for i in range(6))
    out = io.BytesIO()
    Image.frombytes("RGB", (8, 8), pixels).save(out, "PNG")
    return out.getvalue()


def pictures(folder: Path) -> dict[str, bytes]:
    """Every picture of a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def drawn(notes: Path) -> list[str]:
    """Names of what was drawn, in order."""
    return (notes / "drawn").read_text().split()


def run_inline(jobs, folder: Path, stub: Stub, **options):
    """Make a batch in this process."""
    stub.notes.mkdir(exist_ok=True)
    return run_batch(jobs, lambda: Inline(stub), folder, identity=IDENTITY, **options)


def run_processes(jobs, folder: Path, stub: Stub, workers: int, **options):
    """Make a batch in processes."""
    stub.notes.mkdir(exist_ok=True)
    return run_batch(jobs, lambda: Processes(stub, workers), folder, identity=IDENTITY, **options)


if __name__ == "__main__":
    from tests.workflows import stub as ours  # workers find it under this name

    jobs, known = pickle.loads(Path(sys.argv[1]).read_bytes())
    outcome = ours.run_processes(jobs, Path(sys.argv[2]), ours.Stub(**known), 2, resume=True)
    print(outcome.made, len(outcome.failed), "torch" in sys.modules)
