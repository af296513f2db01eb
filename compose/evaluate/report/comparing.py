"""Two reports of one suite: what changed, and whether that is noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compose.errors import RequestError
from compose.evaluate.bootstrap import Interval, Ints, independent_difference
from compose.evaluate.records import read_records
from compose.evaluate.report.figures import paired
from compose.evaluate.report.table import Part, Row, Table, make_table
from compose.evaluate.report.words import words

Verdict = Literal["same", "noise", "unknown", "better", "worse", "higher", "lower"]
Place = tuple[str, str | None, int | None, str]


@dataclass(frozen=True)
class Change:
    """One figure of both reports.

    Attributes:
        method, group, adapters, metric: as of a row of the report.
        old, new: the figures.
        difference, low, high: new less old, with its 95 % interval.
        n, units: pairs of pictures, or pictures of the smaller report, and what they belong to.
        paired: whether the difference is that of pairs with the same prompt and seed.
        verdict: "same" where every pair is equal; "noise" where the interval holds 0, "unknown"
            where there is none; else which way it went, "higher" and "lower" where it is not known
            what is better.
    """

    method: str
    group: str | None
    adapters: int | None
    metric: str
    old: float
    new: float
    difference: float
    low: float | None
    high: float | None
    n: int
    units: int
    paired: bool
    verdict: Verdict

    @property
    def real(self) -> bool:
        """Whether it is more than noise."""
        return self.verdict not in ("same", "noise", "unknown")

    @property
    def interval(self) -> Interval:
        """The difference."""
        return Interval(self.difference, self.low, self.high, self.n, self.units)

    def __str__(self) -> str:
        part = self.group or (f"{self.adapters} adapters" if self.adapters else "")
        name = " / ".join(p for p in (self.method, part, self.metric) if p)
        spread = "" if self.low is None else f" ({self.low:+.3f} to {self.high:+.3f})"
        kind = "pairs" if self.paired else "pictures, not paired"
        moved = f"{self.old:.3f} -> {self.new:.3f}, {self.difference:+.3f}{spread}"
        return f"{self.verdict}: {name}: {moved}, {self.n} {kind}"


@dataclass(frozen=True)
class Comparison:
    """What became of an older report.

    Attributes:
        against: the older report's file.
        changes: of every figure that both have.
        gone, fresh: rows that only the older, only the newer has.
    """

    against: str
    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    fresh: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As in ``report.json``."""
        changes = [asdict(change) for change in self.changes]
        gone, fresh = list(self.gone), list(self.fresh)
        return {"against": self.against, "changes": changes, "gone": gone, "fresh": fresh}

    def lines(self) -> list[str]:
        """For a terminal: what really changed, then what is noise or the same, in numbers."""
        real = [change for change in self.changes if change.real]
        same = sum(change.verdict == "same" for change in self.changes)
        lines = [f"against {self.against}: {len(self.changes)} figures in common"]
        lines += [str(change) for change in real]
        lines.append(
            f"{len(real)} changed, {len(self.changes) - len(real) - same} within noise, {same} the"
            " same; about 1 in 20 of those that vary looks changed by chance"
        )
        lines += [f"only in the older report: {name}" for name in self.gone]
        return lines + [f"only in this report: {name}" for name in self.fresh]


@dataclass(frozen=True)
class Loaded:
    """A report, with its records where they still lie beside it.

    Attributes:
        path: of the report.
        data: what stands in it.
        table: its records; None where they are gone, or not those that it was made from.
    """

    path: Path
    data: Mapping[str, Any]
    table: Table | None


def read_report(path: Path) -> Mapping[str, Any]:
    """What stands in a report.

    Raises:
        RequestError: no report.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _figures(data)
        _ = data["suite"], data["records"]["sha256"], data["commands"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} is no report of an evaluation ({type(error).__name__}: {error}); expected a"
            " report.json that lora-compose evaluate wrote"
        ) from None
    return data


def load_report(path: Path) -> Loaded:
    """Read a report, and the records that it was made from where they are still there.

    Raises:
        RequestError: no report, or the records beside it cannot be read.
    """
    data = read_report(path)
    records = [r for r in read_records(path.parent) if r.suite == data["suite"]]
    table = make_table(records) if records else None
    kept = table is not None and table.digest == data["records"]["sha256"]
    return Loaded(path, data, table if kept else None)


def compare_reports(old: Path, new: Path) -> Comparison:
    """What changed from one report to another of the same suite.

    Differences are those of pairs of pictures with the same row, case, seed and prompt, where the
    records of both reports still lie beside them; else those of independent figures, which takes
    larger changes to be seen.

    Args:
        old, new: files ``report.json``.

    Raises:
        RequestError: no reports, or of different suites.
    """
    return compare_loaded(load_report(old), load_report(new))


def compare_loaded(old: Loaded, new: Loaded) -> Comparison:
    """`compare_reports` of reports that are read already."""
    if old.data["suite"] != new.data["suite"]:
        raise RequestError(
            f"{old.path} is of suite {old.data['suite']}, this report of {new.data['suite']};"
            " expected one suite: give a report of the same"
        )
    before, after = _figures(old.data), _figures(new.data)
    changes = tuple(
        _change(place, before[place], after[place], old.table, new.table)
        for place in after
        if place in before
    )
    names = [list(dict.fromkeys(place[0] for place in rows)) for rows in (before, after)]
    gone = tuple(name for name in names[0] if name not in names[1])
    fresh = tuple(name for name in names[1] if name not in names[0])
    return Comparison(str(old.path), changes, gone, fresh)


def _figures(data: Mapping[str, Any]) -> dict[Place, Interval]:
    """The means of a report, by where they belong."""
    return {
        (row["method"], row["group"], row["adapters"], row["metric"]): Interval(
            row["value"], row["low"], row["high"], row["n"], row["units"]
        )
        for row in data["rows"]
    }


def _change(
    place: Place, old: Interval, new: Interval, before: Table | None, after: Table | None
) -> Change:
    found = _paired(place, before, after) if before is not None and after is not None else None
    if found is not None:
        interval, same = found
    else:
        interval, same = independent_difference(new, old), False
    return Change(
        *place,
        old=old.value,
        new=new.value,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        units=interval.units,
        paired=found is not None,
        verdict="same" if same else _verdict(place[-1], interval),
    )


def _verdict(metric: str, interval: Interval) -> Verdict:
    if interval.low is None:
        return "unknown"
    if not (interval.above or interval.below):
        return "noise"
    better = words(metric).better
    if better is None:
        return "higher" if interval.above else "lower"
    return "better" if interval.above == (better == "more") else "worse"


def _paired(place: Place, before: Table, after: Table) -> tuple[Interval, bool] | None:
    """The difference over pairs, and whether all pairs are equal; None where nothing pairs up."""
    method, group, adapters, metric = place
    new, old = after.find(method), before.find(method)
    if new is None or old is None or metric not in new.columns or metric not in old.columns:
        return None
    ours, theirs = _same_prompts(new, old)
    inside = after.inside(new, Part(group, adapters))[ours]
    ours, theirs = ours[inside], theirs[inside]
    interval = paired(after, new, ours, old, theirs, metric)
    if interval is None:
        return None
    values = new.columns[metric][ours], old.columns[metric][theirs]
    return interval, bool(np.array_equal(*values, equal_nan=True))


def _same_prompts(new: Row, old: Row) -> tuple[Ints, Ints]:
    ours, theirs = new.shared(old)
    same = np.array(
        [new.records[i].prompt == old.records[j].prompt for i, j in zip(ours, theirs, strict=True)],
        dtype=np.bool_,
    )
    return ours[same], theirs[same]
