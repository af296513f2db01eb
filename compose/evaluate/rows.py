"""The rows of a table: composition methods, and the controls that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from compose.adapters.adapter import AdapterSet
from compose.errors import RequestError
from compose.evaluate.cases import SLOTS, Case
from compose.evaluate.controls import random_adapters, shuffled_adapters
from compose.fusion import method, methods
from compose.method import CompositionMethod
from compose.regions import Box
from compose.request import AdapterUse, Request
from compose.world.scene import Scene

ALONE = "alone"
"""The row of each adapter alone: what the others are compared with by `measures.retention`."""
_MET = frozenset({"prompt", "spans", "regions", "streams", "capture", "grad"})
"""What a run can give to a method."""

Change = Callable[[AdapterSet, int], AdapterSet]
Shots = Callable[[Case, int, int], Sequence["Shot | Drawing"]]


@dataclass(frozen=True)
class Shot:
    """A picture to be made by the model.

    Attributes:
        request: for one picture.
        change: replaces the adapters that the request names, given the seed; None for none.
    """

    request: Request
    change: Change | None = None


@dataclass(frozen=True)
class Drawing:
    """A picture to be drawn by the renderer."""

    scene: Scene


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: of the method or control.
        control: whether it is a control.
        shots: a case, a seed and a number of steps to the pictures that the row needs: one for the
            whole case, or one for every adapter.
    """

    name: str
    control: bool
    shots: Shots


def controls() -> tuple[Row, ...]:
    """The rows that every evaluation has.

    - alone: each adapter by itself on the same prompt; how well it can do at all.
    - rendered: true pictures of the same scenes; how well the recognizer can do at all.
    - prompt_only: the base model, no adapter.
    - merge_mean, merge_root: merged at 1 / K and 1 / sqrt(K) of the strength, for K adapters.
      Composite is merge_mean to first order, so a gain over merge may be one of strength alone.
    - random, shuffled: merges of adapters that have learned nothing (`compose.evaluate.controls`).
    """
    made: dict[str, Shots] = {
        ALONE: _alone,
        "rendered": _rendered,
        "prompt_only": partial(_merged, strength=lambda count: 0.0),
        "merge_mean": partial(_merged, strength=lambda count: 1 / count),
        "merge_root": partial(_merged, strength=lambda count: count**-0.5),
        "random": partial(_merged, change=random_adapters),
        "shuffled": partial(_merged, change=shuffled_adapters),
    }
    return tuple(Row(name, True, shots) for name, shots in made.items())


def method_rows(names: Iterable[str] | None = None) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows of some methods.

    Args:
        names: of methods; None for all that there are.

    Returns:
        The rows, and a sentence about every method that is left out. With names, nothing is.

    Raises:
        UnknownMethodError: a method that does not exist.
        RequestError: a method needs what cannot be given to it here.
    """
    kinds = list(methods().values()) if names is None else [method(name) for name in names]
    rows, left_out = [], []
    for kind in dict.fromkeys(kinds):
        missing = sorted(kind.needs - _MET)
        if not missing:
            rows.append(Row(kind.name, False, partial(_composed, kind=kind)))
            continue
        reason = f"method {kind.name} needs {', '.join(missing)}, which suites cannot give yet"
        if names is not None:
            raise RequestError(f"{reason}; leave it out of --methods")
        left_out.append(reason)
    return tuple(rows), tuple(left_out)


def find_rows(names: Iterable[str]) -> tuple[Row, ...]:
    """Rows of either kind by name.

    Raises:
        UnknownMethodError: neither a control nor a method.
    """
    known = {row.name: row for row in controls()}
    return tuple(known[name] if name in known else method_rows([name])[0][0] for name in names)


def _request(case: Case, seed: int, steps: int, names: Sequence[str], weight: float) -> Request:
    uses = tuple(AdapterUse(name, weight) for name in names)
    return Request(case.prompt, adapters=uses, steps=steps, seeds=(case.noise(seed),))


def _composed(
    case: Case, seed: int, steps: int, *, kind: type[CompositionMethod]
) -> Sequence[Shot]:
    request = _request(case, seed, steps, case.adapters, case.weight)
    if "regions" in kind.needs:
        placed = zip(request.adapters, regions(case), strict=True)
        request = replace(request, adapters=tuple(replace(a, region=box) for a, box in placed))
    return [Shot(replace(request, method=kind()))]


def regions(case: Case) -> list[Box | None]:
    """Where the adapters of a case belong, [K]: whoever is one of several things gets its upright
    strip of the picture, in equal parts from left to right; all others act everywhere."""
    things = case.asked.expectation.things
    strips = {place: at for at, place in enumerate(SLOTS[len(things)])} if things else {}
    parts = {part.adapter: part for part in case.asked.parts}

    def box(name: str) -> Box | None:
        part = parts[name]
        if part.thing is None or "species" not in part.primary or len(things) < 2:
            return None
        at = strips[things[part.thing].place or ""]
        return Box(at / len(things), 0, (at + 1) / len(things), 1)

    return [box(name) for name in case.adapters]


def _merged(
    case: Case,
    seed: int,
    steps: int,
    *,
    strength: Callable[[int], float] = lambda count: 1.0,
    change: Change | None = None,
) -> Sequence[Shot]:
    weight = case.weight * strength(len(case.adapters))
    names = case.adapters if weight else ()
    return [Shot(_request(case, seed, steps, names, weight), change)]


def _alone(case: Case, seed: int, steps: int) -> Sequence[Shot]:
    return [Shot(_request(case, seed, steps, [name], case.weight)) for name in case.adapters]


def _rendered(case: Case, seed: int, steps: int) -> Sequence[Drawing]:
    del steps
    return [Drawing(case.scene(seed))]
