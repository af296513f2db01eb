"""What a batch makes, and which pictures share a denoiser call: a function of the file alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OF_A_ROW = ("prompt", "negative", "seeds")
"""Fields of a request in which rows of one call may differ."""


@dataclass(frozen=True)
class Item:
    """One picture.

    Attributes:
        entry: name of the item of the file that it belongs to.
        number: which picture of that it is, counted from 1.
        axes: axis of the grid to the value here, as text; the matrix is the axis "matrix".
        picture: which picture of its place in the grid it is, counted from 0.
        model: as for `Composer.load`.
        request: for this picture alone, as of `Request.to_json`, so that a worker can take it
            without knowing more.
    """

    entry: str
    number: int
    axes: Mapping[str, str]
    picture: int
    model: str
    request: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.entry}-{self.number:04d}"

    @property
    def seed(self) -> int:
        """Of its noise."""
        return int(self.request["seeds"][0])


@dataclass(frozen=True)
class Job:
    """Pictures that are rows of the same denoiser calls: the unit of work.

    Attributes:
        items: one or more; they differ in prompt, negative prompt and seed only.
        files: name of each picture's file. It holds a hash of all that decides the picture as
            far as the batch file says it, neighbours in the call among it.
    """

    items: tuple[Item, ...]
    files: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        told = [{"model": i.model, "request": i.request} for i in self.items]
        files = tuple(
            f"{item.name}-{fingerprint([told, index])[:8]}.png"
            for index, item in enumerate(self.items)
        )
        object.__setattr__(self, "files", files)

    @property
    def model(self) -> str:
        """That all of them are made with."""
        return self.items[0].model


def fingerprint(data: Any) -> str:
    """64 hex digits of what JSON can hold."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def plan_jobs(items: Iterable[Item], together: int) -> tuple[Job, ...]:
    """Put pictures that can share denoiser calls into jobs.

    Pictures with the same model, size, adapters, method and so on form a group; a group is cut into
    jobs in the order of the file. Jobs come model by model and group by group, so that a worker
    seldom has to load or install anything.

    Args:
        items: in the order of the file.
        together: most pictures of a job.
    """
    groups: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        shared = {name: value for name, value in item.request.items() if name not in OF_A_ROW}
        groups.setdefault(item.model, {}).setdefault(fingerprint(shared), []).append(item)
    listed = [group for by_shape in groups.values() for group in by_shape.values()]
    return tuple(job for group in listed for job in _cut(group, together))


def _cut(group: Sequence[Item], together: int) -> list[Job]:
    return [Job(tuple(group[at : at + together])) for at in range(0, len(group), together)]
