"""Questions with pictures that the renderer draws for them, right or with a known fault."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from compose.evaluate.cases import Asked, Case, make_cases
from compose.evaluate.measures import Sight, measure
from compose.evaluate.suite import Group, Suite
from compose.world.reading import load_recognizer, read
from compose.world.recognizer import Recognizer
from compose.world.renderer import render
from compose.world.scene import Scene

CLEAR = ("ember", "biscuit", "domino", "bolt")
"""Characters that the shipped recognizer reads without mistakes."""


def suite(*combinations: Sequence[str], **more: object) -> Suite:
    group = Group("g", tuple(map(tuple, combinations)), **more)  # type: ignore[arg-type]
    return Suite("planted", "planted", 1, 2, (group,))


def case(*names: str) -> Case:
    return make_cases(suite(names), 1)[0][0]


@cache
def recognizer() -> Recognizer:
    return load_recognizer()


def sights(asked: Sequence[Asked], pictures: Tensor) -> list[Sight]:
    """What is seen in pictures [N, 3, 128, 128]."""
    readings = read(recognizer(), pictures)
    return [Sight(*both) for both in zip(asked, readings, pictures, strict=True)]


def measured(asked: Asked, scenes: Sequence[Scene]) -> dict[str, float | None]:
    """Means of all measures over scenes drawn for one question."""
    return mean([measure(s) for s in sights([asked] * len(scenes), render(scenes))])


def mean(measures: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in measures[0]:
        known = [m[name] for m in measures if m[name] is not None]
        out[name] = float(torch.tensor(known).mean()) if known else None
    return out
