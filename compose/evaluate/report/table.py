"""Records as a table: rows of values, cases in common, and the units that intervals draw from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compose.errors import RequestError
from compose.evaluate.bootstrap import Floats, Ints
from compose.evaluate.records import NAME, Record, read_records
from compose.evaluate.report.words import HEADLINE, ordered

UnitKind = Literal["combination", "case", "picture"]
Key = tuple[str, int]
LEAST_UNITS = 5
"""Intervals draw from combinations of adapters, unless there are fewer of them than this."""
_FEW = 8  # adapters or things in a picture, of which a measure may count the right ones


@dataclass(frozen=True)
class Part:
    """Some of the cases.

    Attributes:
        group: the first of the three parts of their names (``pairs/mochi+ember/0``), with the
            strength of the adapters where the second tells one (``@0.7``); None for all.
        adapters: how many adapters they have; None where that varies.
    """

    group: str | None = None
    adapters: int | None = None


@dataclass(frozen=True)
class Row:
    """The pictures of one method or control.

    Attributes:
        name: of the method or control.
        control: whether it is a control.
        records: one for every (case, seed), in the order of these.
        columns: measure to its values [pictures], NaN where it says nothing.
        units: [pictures], which unit each belongs to.
    """

    name: str
    control: bool
    records: tuple[Record, ...]
    columns: Mapping[str, Floats]
    units: Ints

    @cached_property
    def places(self) -> Mapping[Key, int]:
        """(case, seed) to the number of the picture."""
        return {(r.case, r.seed): i for i, r in enumerate(self.records)}

    def shared(self, other: Row) -> tuple[Ints, Ints]:
        """Numbers [pairs] of the pictures of the cases and seeds that both rows have."""
        pairs = [(i, other.places[key]) for key, i in self.places.items() if key in other.places]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]


@dataclass(frozen=True)
class Table:
    """All records of a folder.

    Attributes:
        suite: its name.
        rows: methods first, `merge` before all others; then controls.
        measures: names, in the order in which reports show them.
        shares: of these, the ones that are so many of so few in every picture: 0, 1/2, 1 ...
        units: what intervals draw from.
        parts: all cases, and where they differ those of one number of adapters or of one group.
        combinations: case to its adapters, sorted.
    """

    suite: str
    rows: tuple[Row, ...]
    measures: tuple[str, ...]
    shares: frozenset[str]
    units: UnitKind
    parts: tuple[Part, ...]
    combinations: Mapping[str, tuple[str, ...]]

    @property
    def headline(self) -> str:
        """The measure that the report opens with; the first one where none is known."""
        return HEADLINE if HEADLINE in self.measures else self.measures[0]

    @property
    def whole(self) -> Part:
        """All cases."""
        return self.parts[0]

    @property
    def plain(self) -> tuple[str, ...]:
        """Measures of whole pictures; those of single adapters are called ``presence/mochi``."""
        return tuple(measure for measure in self.measures if "/" not in measure)

    @cached_property
    def keys(self) -> frozenset[Key]:
        """Every (case, seed) that any row has."""
        return frozenset(key for row in self.rows for key in row.places)

    @property
    def seeds(self) -> int:
        """How many different seeds there are."""
        return len({seed for _, seed in self.keys})

    def find(self, name: str) -> Row | None:
        """A row by its name."""
        return next((row for row in self.rows if row.name == name), None)

    def inside(self, row: Row, part: Part) -> NDArray[np.bool_]:
        """Which pictures [pictures] of a row belong to a part."""
        return np.array([self._fits(record.case, part) for record in row.records])

    def _fits(self, case: str, part: Part) -> bool:
        counted = part.adapters is None or part.adapters == len(self.combinations[case])
        return counted and (part.group is None or part.group == _group(case))

    @cached_property
    def digest(self) -> str:
        """Identity of the records, whatever their order: 64 hex digits."""
        lines = sorted(record.to_json() for row in self.rows for record in row.records)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_table(folder: Path) -> Table:
    """Read the records of a folder.

    Raises:
        RequestError: there are none, a line in the middle is none, or they are of several suites.
    """
    records = read_records(folder)
    if not records:
        raise RequestError(
            f"no pictures in {folder / NAME}; expected the folder of an evaluation, so run"
            " lora-compose evaluate first"
        )
    suites = sorted({record.suite for record in records})
    if len(suites) > 1:
        raise RequestError(
            f"{folder / NAME} holds the suites {', '.join(suites)}; expected one: evaluate each"
            " into a folder of its own"
        )
    return make_table(records)


def make_table(records: Sequence[Record]) -> Table:
    """Arrange the records of one suite; of records with the same key the last one counts."""
    unique = list({record.key: record for record in records}.values())
    said = {n for record in unique for n, value in record.measures.items() if value is not None}
    measures = tuple(ordered(said))
    if not measures:
        raise RequestError(f"suite {unique[0].suite} measured nothing; expected measures")
    # controls first, so that the adapters of a case are those that the methods were given
    combinations = {
        r.case: tuple(sorted(r.adapters)) for r in sorted(unique, key=lambda r: not r.control)
    }
    kind, numbers = _units(unique, combinations)
    rows = []
    for name in sorted({r.row for r in unique}):
        own = sorted((r for r in unique if r.row == name), key=lambda r: (r.case, r.seed))
        columns = {m: np.array([_number(r.measures.get(m)) for r in own]) for m in measures}
        units = np.array([numbers[r.case, r.seed] for r in own])
        rows.append(Row(name, own[0].control, tuple(own), columns, units))
    rows.sort(key=lambda row: (row.control, row.name != "merge", row.name))
    shares = frozenset(m for m in measures if all(_counted(row.columns[m]) for row in rows))
    return Table(
        unique[0].suite, tuple(rows), measures, shares, kind, _parts(combinations), combinations
    )


def _counted(values: Floats) -> bool:
    """Whether all values [pictures] are so many of at most `_FEW`, or unknown."""
    known = values[~np.isnan(values)]
    times = known * math.lcm(*range(1, _FEW + 1))
    inside = ((known >= 0) & (known <= 1)).all()
    return bool(inside and np.allclose(times, np.round(times), rtol=0, atol=1e-6))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _units(
    records: Sequence[Record], combinations: Mapping[str, tuple[str, ...]]
) -> tuple[UnitKind, dict[Key, int]]:
    """The coarsest kind of unit of which there are enough, and the number of each picture's."""
    keys = {(record.case, record.seed) for record in records}
    counted = {(r.case, r.seed) for r in records if not r.control} or keys
    kinds: tuple[tuple[UnitKind, dict[Key, Hashable]], ...] = (
        ("combination", {key: combinations[key[0]] for key in keys}),
        ("case", {key: key[0] for key in keys}),
        ("picture", {key: key for key in keys}),
    )
    for kind, named in kinds:
        if len({named[key] for key in counted}) >= LEAST_UNITS or kind == "picture":
            break
    number = {name: i for i, name in enumerate(sorted(set(named.values()), key=repr))}
    return kind, {key: number[name] for key, name in named.items()}


def _parts(combinations: Mapping[str, tuple[str, ...]]) -> tuple[Part, ...]:
    counts = sorted({len(names) for names in combinations.values()})
    both = {(_group(case), len(names)) for case, names in combinations.items()}
    groups = sorted({group for group, _ in both if group is not None})
    parts = [Part(None, counts[0] if len(counts) == 1 else None)]
    if len(counts) > 1:
        parts += [Part(None, count) for count in counts]
    if len(groups) > 1 and not len(groups) == len(counts) == len(both):  # else these are the counts
        parts += [Part(group, _only({n for g, n in both if g == group})) for group in groups]
    return tuple(parts)


def _only(counts: set[int]) -> int | None:
    return counts.pop() if len(counts) == 1 else None


def _group(case: str) -> str | None:
    """``pairs`` of ``pairs/mochi+ember/0``, ``pairs@0.7`` of ``pairs/mochi+ember@0.7/0``."""
    parts = case.split("/")
    if len(parts) != 3:
        return None
    _, at, strength = parts[1].partition("@")
    return parts[0] + at + strength
