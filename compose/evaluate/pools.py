"""Where blocks are worked off: in this process, or in several; see `compose.pools`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from compose import pools
from compose.evaluate.worker import Block, Done, Setting, Worker


class Pool(Protocol):
    """Works off blocks while its context is open."""

    workers: int

    def run(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """Work off blocks, each taken when there is somebody free for it.

        Yields:
            What came of them, in the order in which they were taken.

        Raises:
            ComposeError: as of `Worker.run`; a worker died.
        """
        ...


class _Numbered(NamedTuple):
    number: int
    block: Block


class _InOrder:
    """A pool whose first error ends it, and whose answers keep the order of the blocks."""

    def __init__(self, pool: pools.Pool[_Numbered, Done]) -> None:
        self._pool = pool
        self.workers = pool.workers

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, error, at)

    def run(self, blocks: Iterable[Block]) -> Iterator[Done]:
        """As of `Pool`."""
        ready: dict[int, Done] = {}
        given = 0
        for ended in self._pool.run(_Numbered(*pair) for pair in enumerate(blocks)):
            ready[ended.job.number] = ended.result()
            while given in ready:
                yield ready.pop(given)
                given += 1


class Inline(_InOrder):
    """Works in this process, one block after another."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(pools.Inline(partial(_worker, setting)))


class Processes(_InOrder):
    """Works in fresh processes, each with a model of its own.

    Args:
        setting: for every worker.
        workers: how many.
    """

    def __init__(self, setting: Setting, workers: int) -> None:
        super().__init__(pools.Processes(partial(_worker, setting), workers))


def _worker(setting: Setting, number: int) -> Callable[[_Numbered], Done]:
    del number
    _hush()
    worker = Worker(setting)
    return lambda job: worker.run(job.block)


def _hush() -> None:
    """Keep the notices and bars of libraries from the terminal, which the parent writes to."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
