"""Drawings inside the page: quality against cost, and intervals on a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compose.evaluate.bootstrap import Interval
from compose.evaluate.report.html import Html, tag, together

_WIDTH, _HEIGHT = 860, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 640, 20, 410  # of the field
_LINE = 15  # least distance of two names
_EDGE = 1.25  # room beside the first and last cost


@dataclass(frozen=True)
class Point:
    """One row of the table.

    Attributes:
        name: of the row.
        control: whether it is a control.
        cost: denoiser rows per picture, above 0.
        quality: by the headline measure.
    """

    name: str
    control: bool
    cost: float
    quality: Interval


def scatter(points: Sequence[Point], title: str, *, less: bool = False) -> Html:
    """Quality against cost, on a logarithmic axis of cost; an empty text where there is no point.

    A line joins the methods that no other method beats in both.

    Args:
        points: in any order.
        title: of the axis of quality.
        less: whether less of it is better.
    """
    if not points:
        return Html("")
    least, most = min(p.cost for p in points), max(p.cost for p in points)
    low, high = scale([point.quality for point in points])

    def across(cost: float) -> float:
        share = math.log(cost / least * _EDGE) / math.log(most / least * _EDGE**2)
        return _LEFT + share * (_RIGHT - _LEFT)

    def up(value: float) -> float:
        return _BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP)

    grid = [_level(low + (high - low) * i / 5, up) for i in range(6)]
    doublings = range(math.floor(math.log2(most / least) + 1e-9) + 1)
    grid += [_upright(least * 2**i, across(least * 2**i)) for i in doublings]
    at = {p.name: (across(p.cost), up(p.quality.value)) for p in points}
    best = [at[p.name] for p in frontier(points, less=less)]
    line = tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in best), class_="front")
    names = _names(points, at)
    marks = [_mark(p, *at[p.name], up) for p in points]
    middle = (_LEFT + _RIGHT) / 2
    axes = [
        tag("text", "denoiser rows per picture", x=middle, y=_HEIGHT - 8, text_anchor="middle"),
        tag("text", title, x=_LEFT, y=_TOP - 7, class_="axis"),
    ]
    return tag(
        "svg",
        together([*grid, line, *names, *marks, *axes]),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title} against denoiser rows per picture",
        class_="plot",
    )


def frontier(points: Sequence[Point], *, less: bool = False) -> list[Point]:
    """Methods, cheapest first, each better than all that cost as much or less."""
    best: list[Point] = []
    turn = -1.0 if less else 1.0
    for point in sorted(points, key=lambda p: (p.cost, -turn * p.quality.value)):
        if point.control:
            continue
        if not best or turn * point.quality.value > turn * best[-1].quality.value:
            best.append(point)
    return best


def scale(figures: Sequence[Interval]) -> tuple[float, float]:
    """Ends of an axis: 0 to 1 for shares, else what holds every interval."""
    ends = [e for f in figures for e in (f.value, f.low, f.high) if e is not None]
    if min(ends) >= 0 and max(ends) <= 1:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    edge = (high - low) * 0.05 or 1.0
    return low - edge, high + edge


def strip(figure: Interval, ends: tuple[float, float]) -> Html:
    """An interval on a line 120 pixels long."""

    def across(value: float) -> float:
        return 4 + 112 * (value - ends[0]) / (ends[1] - ends[0])

    parts = [tag("line", x1=4, x2=116, y1=8, y2=8, class_="rail")]
    if figure.low is not None and figure.high is not None:
        parts.append(
            tag("line", x1=across(figure.low), x2=across(figure.high), y1=8, y2=8, class_="bar")
        )
    parts.append(tag("circle", cx=across(figure.value), cy=8, r=4))
    return tag("svg", together(parts), viewBox="0 0 120 16", class_="strip", aria_hidden="true")


def _level(value: float, up: Callable[[float], float]) -> Html:
    y = up(value)
    line = tag("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="grid")
    return together([line, tag("text", f"{value:.2g}", x=_LEFT - 8, y=y + 4, text_anchor="end")])


def _upright(value: float, x: float) -> Html:
    line = tag("line", x1=x, x2=x, y1=_TOP, y2=_BOTTOM, class_="grid")
    return together([line, tag("text", f"{value:.3g}", x=x, y=_BOTTOM + 18, text_anchor="middle")])


def _mark(point: Point, x: float, y: float, up: Callable[[float], float]) -> Html:
    kind = "control" if point.control else "method"
    parts = [tag("title", f"{point.name}: {point.quality.value:.3f}, {point.cost:.4g} rows")]
    if point.quality.low is not None and point.quality.high is not None:
        low, high = up(point.quality.low), up(point.quality.high)
        parts.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_="bar"))
    parts.append(tag("circle", cx=x, cy=y, r=5))
    return tag("g", together(parts), class_=kind)


def _names(points: Sequence[Point], at: dict[str, tuple[float, float]]) -> list[Html]:
    """Names at the right edge, moved apart, each with a thin line to its point."""
    ordered = sorted(points, key=lambda p: at[p.name][1])
    levels = _apart([at[p.name][1] for p in ordered])
    parts = []
    for point, level in zip(ordered, levels, strict=True):
        x, y = at[point.name]
        kind = "control" if point.control else "method"
        parts.append(tag("line", x1=x, y1=y, x2=_RIGHT + 18, y2=level, class_="leader"))
        parts.append(tag("text", point.name, x=_RIGHT + 22, y=level + 4, class_=kind))
    return parts


def _apart(levels: list[float]) -> list[float]:
    """Rising levels moved down until none touch, then up again from the lower edge."""
    out = list(levels)
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + _LINE)
    limit = float(_BOTTOM)
    for i in reversed(range(len(out))):
        out[i] = min(out[i], limit)
        limit = out[i] - _LINE
    return out
