"""The parts of the page: tables of figures, pictures, and how all of it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from compose.evaluate.bootstrap import Interval
from compose.evaluate.report.comparing import Change, Comparison
from compose.evaluate.report.figures import COSTS, REFERENCES, Figure
from compose.evaluate.report.html import Html, table, tag, together
from compose.evaluate.report.plot import Point, scale, scatter, strip
from compose.evaluate.report.table import Part, Row, Table
from compose.evaluate.report.words import CORPUS, sign, words


@dataclass(frozen=True)
class Content:
    """Everything that the page shows.

    Attributes:
        table: the records.
        means, differences, retentions: as of `compose.evaluate.report.figures`.
        transfers, costs: as of `compose.evaluate.report.figures`.
        made: versions, commands and host, as in ``report.json``.
        comparison: with an older report; None without.
    """

    table: Table
    means: Sequence[Figure]
    differences: Sequence[Figure]
    retentions: Sequence[Figure]
    transfers: Sequence[Mapping[str, Any]]
    costs: Sequence[Mapping[str, Any]]
    made: Mapping[str, Any]
    comparison: Comparison | None = None

    @cached_property
    def _found(self) -> Mapping[tuple[str, str, Part, str | None], Interval]:
        figures = (*self.means, *self.differences)
        return {(f.method, f.metric, f.part, f.against): f.interval for f in figures}

    def mean(self, row: str, measure: str, part: Part) -> Interval | None:
        """A mean; None where the measure says nothing in the row."""
        return self._found.get((row, measure, part, None))

    def difference(self, row: str, measure: str, against: str) -> Interval | None:
        """A difference over all cases; None where there is none."""
        return self._found.get((row, measure, self.table.whole, against))


def headline(content: Content) -> Html:
    """Every row by the measure that methods are compared by, the best methods first."""
    t = content.table
    found = {row.name: content.mean(row.name, t.headline, t.whole) for row in t.rows}
    known = [figure for figure in found.values() if figure is not None]
    ends = scale(known) if known else (0.0, 1.0)
    against = [name for name in REFERENCES if t.find(name) is not None]
    transfer = {entry["method"]: entry["shown"] for entry in content.transfers}
    rows_cost = {cost["method"]: cost for cost in content.costs}
    head = ["row", "", words(t.headline).title, "pictures", "rows per picture"]
    head += ["transfer"] if transfer else []
    head += [f"against {name}" for name in against]

    def rank(row: Row) -> tuple[bool, float]:
        figure = found[row.name]
        value = float("-inf") if figure is None else sign(t.headline) * figure.value
        return row.control, -value

    body = []
    for row in (ordered := sorted(t.rows, key=rank)):
        figure, cost = found[row.name], rows_cost[row.name]
        cells = [row.name, strip(figure, ends) if figure else "", _cell(figure)]
        lacks = cost["pictures"] < cost["asked"]
        cells.append(f"{cost['pictures']} of {cost['asked']}" if lacks else f"{cost['pictures']}")
        cells.append("" if cost["rows"] is None else f"{cost['rows']:.4g}")
        if transfer:
            said = {True: "shown", False: "not shown", None: ""}
            cells.append(said[transfer.get(row.name)])
        cells += [signed(content.difference(row.name, t.headline, n), t.headline) for n in against]
        body.append(cells)
    return table(head, body, _kinds(ordered))


def plot(content: Content) -> Html:
    """Quality against cost."""
    t = content.table
    points = []
    for row, cost in zip(t.rows, content.costs, strict=True):
        figure = content.mean(row.name, t.headline, t.whole)
        if figure is not None and cost["rows"]:
            points.append(Point(row.name, row.control, cost["rows"], figure))
    return scatter(points, words(t.headline).title, less=sign(t.headline) < 0)


def by_part(content: Content) -> Html:
    """The headline measure by number of adapters and by group."""
    t = content.table
    parts = t.parts[1:]
    head = ["row", *(p.group or f"{p.adapters} adapters" for p in parts)]
    body = [
        [row.name, *(_cell(content.mean(row.name, t.headline, part)) for part in parts)]
        for row in t.rows
    ]
    return table(head, body, _kinds(t.rows))


def glance(content: Content) -> Html:
    """Every measure of whole pictures, and of many at once, in every row, without intervals."""
    t = content.table
    body = []
    measured = {figure.metric for figure in content.means}
    measures = (*t.plain, *(m for m in CORPUS if m in measured))
    for row in t.rows:
        means = [content.mean(row.name, measure, t.whole) for measure in measures]
        body.append([row.name, *("" if m is None else f"{m.value:.3f}" for m in means)])
    return table(["row", *(m.replace("_", " ") for m in measures)], body, _kinds(t.rows))


def measure_table(content: Content, measure: str) -> Html:
    """One measure in every row that has it, folded up."""
    t = content.table
    said = words(measure)
    found = [(row, content.mean(row.name, measure, t.whole)) for row in t.rows]
    known = [(row, figure) for row, figure in found if figure is not None]
    if not known:
        return Html("")
    ends = scale([figure for _, figure in known])
    against = [name for name in REFERENCES if t.find(name) is not None]
    head = ["row", "", "mean", "n", *(f"against {name}" for name in against)]
    body = [
        [
            row.name,
            strip(figure, ends),
            _cell(figure),
            str(figure.n),
            *(signed(content.difference(row.name, measure, name), measure) for name in against),
        ]
        for row, figure in known
    ]
    way = {"more": "More is better.", "less": "Less is better.", None: ""}[said.better]
    note = tag("p", " ".join(p for p in (said.meaning, way) if p), class_="note")
    named = [] if said.title == measure else [f"{said.title} "]
    title = tag("summary", *named, tag("code", measure))
    return tag("details", title, note, table(head, body, _kinds([row for row, _ in known])))


def adapter_table(content: Content, kind: str) -> Html:
    """A measure of single adapters: a column for each."""
    t = content.table
    columns = [m for m in t.measures if m.startswith(f"{kind}/")]
    body = [
        [row.name, *(_cell(content.mean(row.name, m, t.whole)) for m in columns)] for row in t.rows
    ]
    head = ["row", *(m.partition("/")[2] for m in columns)]
    inner = table(head, body, _kinds(t.rows))
    return tag("details", tag("summary", f"{words(kind).title}, by adapter"), inner)


def retention(content: Content) -> Html:
    """Every method as a share of the adapters alone."""
    measures = list(dict.fromkeys(f.metric for f in content.retentions))
    rows = [row for row in content.table.rows if not row.control]
    found = {(f.method, f.metric): f.interval for f in content.retentions}
    body = [[row.name, *(_cell(found.get((row.name, m))) for m in measures)] for row in rows]
    return table(["row", *(words(m).title for m in measures)], body)


def costs(content: Content) -> Html:
    """What a picture costs in every row."""
    head = ["row", "calls", "rows", "cached rows", "backwards", "seconds", "peak memory"]
    body = []
    for cost in content.costs:
        numbers = ["" if cost[n] is None else f"{cost[n]:.4g}" for n in COSTS[:-1]]
        memory = "" if cost["memory"] is None else f"{cost['memory'] / 2**30:.2f} GiB"
        body.append([cost["method"], *numbers, memory])
    return table(head, body, _kinds(content.table.rows))


def changes(comparison: Comparison) -> Html:
    """What became of an older report: what is real first, then what may be noise."""
    real = [c for c in comparison.changes if c.real]
    same = sum(c.verdict == "same" for c in comparison.changes)
    noise = [c for c in comparison.changes if not c.real and c.verdict != "same"]
    head = ["row", "part", "measure", "old", "new", "new less old", "n", "verdict"]
    tables = [table(head, [_changed(c) for c in real])] if real else []
    if noise:
        within = table(head, [_changed(c) for c in noise])
        tables.append(tag("details", tag("summary", f"{len(noise)} within noise"), within))
    missing = [f"Only in the older report: {name}." for name in comparison.gone]
    missing += [f"Only in this report: {name}." for name in comparison.fresh]
    note = (
        f"Against {comparison.against}: {len(real)} of {len(comparison.changes)} figures changed"
        f" by more than noise, {same} did not change in any picture. About 1 in 20 of those that"
        " vary looks changed by chance."
    )
    return together([tag("p", " ".join([note, *missing])), *tables])


def _changed(c: Change) -> list[str]:
    part = c.group or ("" if c.adapters is None else f"{c.adapters} adapters")
    kind = f"{c.n} pairs" if c.paired else f"{c.n} pictures, not paired"
    verdict = tag("span", c.verdict, class_=c.verdict)
    moved = signed(c.interval, c.metric)
    return [c.method, part, c.metric, f"{c.old:.3f}", f"{c.new:.3f}", moved, kind, verdict]


def making(content: Content) -> Html:
    """Commands, versions, machine."""
    commands = tag("pre", "\n".join(content.made["commands"]))
    facts = {**content.made["versions"], **content.made["host"]}
    return together([commands, table(["", ""], [[k, str(v)] for k, v in facts.items()])])


def signed(figure: Interval | None, measure: str) -> str:
    """A difference in words and colour; empty where there is none."""
    if figure is None:
        return ""
    spread = "unknown" if figure.low is None else f"{figure.low:+.3f} to {figure.high:+.3f}"
    up = (sign(measure) > 0) == figure.above
    kind = ("better" if up else "worse") if figure.above or figure.below else "noise"
    return together(
        [tag("span", f"{figure.value:+.3f}", class_=kind), tag("span", spread, class_="range")], ""
    )


def _cell(figure: Interval | None) -> Html:
    """A mean above its interval; empty where there is none."""
    if figure is None:
        return Html("")
    low, high = figure.low, figure.high
    if low is None:
        spread = "unknown"
    else:
        spread = f"{low:.3f} to {high:.3f}" if high is not None else f"{low:.3f} and more"
    return together([tag("span", f"{figure.value:.3f}"), tag("span", spread, class_="range")], "")


def _kinds(rows: Sequence[Row]) -> list[str]:
    """Classes of the rows of a table: controls, and the first of them."""
    kinds = ["control" if row.control else "method" for row in rows]
    for i in range(1, len(kinds)):
        if kinds[i] == "control" and kinds[i - 1] == "method":
            kinds[i] = "control split"
    return kinds
