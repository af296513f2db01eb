"""The figures of a report, as they stand in ``report.json``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from compose.evaluate.bootstrap import (
    Interval,
    Ints,
    difference_interval,
    mean_interval,
    ratio_interval,
)
from compose.evaluate.report.table import Part, Row, Table
from compose.evaluate.report.words import sign
from compose.evaluate.truth import corpus_figures

CEILING = "alone"
"""The control in which each adapter acts alone."""
RANDOM = "random"
"""The control with adapters that have learned nothing: what a claim of transfer has to beat."""
REFERENCES = ("merge", "merge_mean", RANDOM)
"""Rows that all others are compared with, where they are there: the default method, the same at the
strength of a single adapter, and random adapters."""
COSTS = ("forwards", "rows", "cached_rows", "backwards", "seconds", "memory")


@dataclass(frozen=True)
class Figure:
    """One number with its interval.

    Attributes:
        method: row it is about.
        part: of the cases.
        metric: name of the measure.
        interval: the number.
        against: row that it was compared with; None for a mean.
    """

    method: str
    part: Part
    metric: str
    interval: Interval
    against: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the lists of ``report.json``."""
        against = {} if self.against is None else {"against": self.against}
        return {
            "method": self.method,
            **asdict(self.part),
            **against,
            "metric": self.metric,
            **asdict(self.interval),
        }


def means(table: Table) -> Iterator[Figure]:
    """The mean of every measure in every row, over all cases and over each part of them.

    Measures of single adapters are meaned over all cases only.
    """
    for part, row in product(table.parts, table.rows):
        inside = np.flatnonzero(table.inside(row, part))
        for measure in table.measures if part == table.whole else table.plain:
            interval = _mean(table, row, measure, inside)
            if interval is not None:
                yield Figure(row.name, part, measure, interval)


def corpus(folder: Path, table: Table) -> Iterator[Figure]:
    """Figures of many pictures at once, where the folder holds the features for them."""
    for found in corpus_figures(folder):
        if table.find(found.row) is not None:
            interval = Interval(found.value, found.low, found.high, found.n, found.units)
            yield Figure(found.row, table.whole, found.metric, interval)


def differences(table: Table) -> Iterator[Figure]:
    """Every row less each of the `REFERENCES`, on the cases and seeds that both have."""
    for name, part, row in product(REFERENCES, table.parts, table.rows):
        reference = table.find(name)
        if reference is None or row is reference:
            continue
        ours, theirs = row.shared(reference)
        inside = table.inside(row, part)[ours]
        ours, theirs = ours[inside], theirs[inside]
        for measure in table.plain:
            interval = paired(table, row, ours, reference, theirs, measure)
            if interval is not None:
                yield Figure(row.name, part, measure, interval, reference.name)


def retentions(table: Table) -> Iterator[Figure]:
    """Every method's mean as a share of that of the adapters alone, for shares of which more is
    better.

    Taken over the cases and seeds that both have; over all that each has where they share none.
    """
    ceiling = table.find(CEILING)
    if ceiling is None:
        return
    for row in table.rows:
        if row.control:
            continue
        ours, theirs = row.shared(ceiling)
        if not len(ours):
            ours, theirs = np.arange(len(row.records)), np.arange(len(ceiling.records))
        for measure in table.plain:
            if measure not in table.shares or sign(measure) < 0:
                continue
            part = _mean(table, row, measure, ours)
            alone = _mean(table, ceiling, measure, theirs)
            ratio = None if part is None or alone is None else ratio_interval(part, alone)
            if ratio is not None:
                yield Figure(row.name, table.whole, measure, ratio, CEILING)


def transfers(table: Table, found: Iterable[Figure]) -> list[dict[str, Any]]:
    """Whether each method does more than random adapters would, by the headline measure.

    Args:
        table: the records.
        found: as of `differences`.

    Returns:
        One entry for every method; none where there are no random adapters to compare with.
    """
    methods = {row.name for row in table.rows if not row.control}
    entries = []
    for figure in found:
        asked = (RANDOM, table.headline, table.whole)
        if (figure.against, figure.metric, figure.part) == asked and figure.method in methods:
            more = figure.interval.above if sign(figure.metric) > 0 else figure.interval.below
            entries.append({"method": figure.method, "metric": figure.metric, "shown": more})
    return entries


def costs(table: Table) -> list[dict[str, Any]]:
    """Mean cost of a picture in every row, as far as it was counted, and how many are there."""
    entries = []
    for row in table.rows:
        entry: dict[str, Any] = {
            "method": row.name,
            "control": row.control,
            "pictures": len(row.records),
            "asked": len(table.keys),
        }
        for name in COSTS:
            known = [record.cost[name] for record in row.records if name in record.cost]
            entry[name] = float(np.mean(known)) if known else None
        entries.append(entry)
    return entries


def paired(
    table: Table,
    row: Row,
    ours: Ints,
    other: Row,
    theirs: Ints,
    measure: str,
) -> Interval | None:
    """A row less another on pairs of pictures; None where the measure says nothing on any.

    Args:
        table: of the row; says what the intervals draw from.
        row, ours: the row and the numbers [n] of its pictures.
        other, theirs: the same of the other row, which may be of another table with this measure.
        measure: its name.
    """
    new, old = row.columns[measure][ours], other.columns[measure][theirs]
    known = ~(np.isnan(new) | np.isnan(old))
    if not known.any():
        return None
    units = row.units[ours][known]
    return difference_interval(new[known], old[known], units, share=measure in table.shares)


def _mean(table: Table, row: Row, measure: str, pictures: Ints) -> Interval | None:
    values = row.columns[measure][pictures]
    known = ~np.isnan(values)
    if not known.any():
        return None
    units = row.units[pictures][known]
    return mean_interval(values[known], units, share=measure in table.shares)
