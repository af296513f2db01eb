"""Workers on the nodes of a Ray cluster (extra `ray`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from compose.errors import MissingExtraError, RequestError, WorkerLostError
from compose.pools import Ended, Make, Worker

J = TypeVar("J")
A = TypeVar("A")
_COPIES = 2  # of one job at most


class OnRay(Generic[J, A]):
    """Works in actors of a Ray cluster. One that is lost with its node begins anew on another.

    Ray itself brings back actors and their jobs, without end: a node that goes away makes calls
    fail within milliseconds, long before it counts as dead, so any bound would soon be used up.
    Where no node has room for a lost actor its job would wait for ever. So workers that have
    nothing left to do take over what others still have in hand, and the first answer counts: they
    all give the same.

    Args:
        make: as of `compose.pools.Make`; nodes have to have this package and the models.
        workers: how many; None for one a GPU, or one a core, of the cluster.
        address: of the cluster, as of `ray.init`; None starts one on this machine.
        gpus: how many GPUs a worker needs.

    Raises:
        MissingExtraError: ray is not installed.
    """

    def __init__(
        self, make: Make[J, A], workers: int | None, address: str | None, gpus: int
    ) -> None:
        self._ray = _ray()
        self._make = make
        self._address = address
        self._gpus = gpus
        self._actors: list[Any] = []
        self._ours = False
        self.workers = workers or 0

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            self._ours = True
            try:
                ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError) as error:
                raise RequestError(
                    f"no Ray cluster answers at {self._address} ({error}); expected the address of"
                    " one that runs, such as 10.0.0.1:6379 or auto"
                ) from None
        self.workers = self.workers or self._room()
        kind = ray.remote(
            num_cpus=0 if self._gpus else 1,
            num_gpus=self._gpus,
            max_restarts=-1,
            max_task_retries=-1,
        )(Worker)
        self._actors = [kind.remote(self._make, number) for number in range(self.workers)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        if self._ours:
            self._ray.shutdown()

    def run(self, jobs: Iterable[J]) -> Iterator[Ended[J, A]]:
        """As of `compose.pools.Pool`."""
        todo = enumerate(jobs)
        idle = list(self._actors)
        given: dict[int, J] = {}  # jobs without an answer
        copies: Counter[int] = Counter()
        calls: dict[Any, tuple[int, Any]] = {}  # call to job and actor
        while True:
            while idle:
                number = self._next(todo, given, copies)
                if number is None:
                    break
                copies[number] += 1
                actor = idle.pop()
                calls[actor.answer.remote(given[number])] = number, actor
            if not given:
                return
            for call in self._ray.wait(list(calls))[0]:
                number, actor = calls.pop(call)
                idle.append(actor)
                if number in given:
                    yield self._ended(given.pop(number), call)

    @staticmethod
    def _next(
        todo: Iterator[tuple[int, J]], given: dict[int, J], copies: Counter[int]
    ) -> int | None:
        """A fresh job, else one that somebody has in hand; None where there is neither."""
        for number, job in todo:
            given[number] = job
            return number
        return min((n for n in given if copies[n] < _COPIES), key=copies.__getitem__, default=None)

    def _ended(self, job: J, call: Any) -> Ended[J, A]:
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return Ended(job, error=WorkerLostError(f"a Ray worker was lost: {error}"))
        return Ended.of(job, answer)

    def _room(self) -> int:
        found = self._ray.cluster_resources()
        return max(1, int(found.get("GPU" if self._gpus else "CPU", 1)))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            f"--executor ray needs ray, which is not there ({error}); expected the extra: run pip"
            " install 'lora-compose[ray]', or use --executor processes"
        ) from None
    return ray
