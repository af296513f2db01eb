"""``methods``: what there is to combine adapters with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from ..console import Screen

if TYPE_CHECKING:
    from compose.method import CompositionMethod, Param


@click.command(short_help="List the composition methods and their fields.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
def methods(as_json: bool) -> None:
    """List every composition method with its fields, their ranges, and its source."""
    from compose.fusion import methods as known

    screen = Screen(as_json=as_json)
    screen.data([_described(kind) for kind in known().values()])
    for kind in known().values():
        for line in _lines(kind):
            screen.result(line)
    screen.result(_products(known().values()))


def _described(kind: type[CompositionMethod]) -> dict[str, Any]:
    return {
        "name": kind.name,
        "title": kind.title,
        "source": kind.source,
        "needs": sorted(kind.needs),
        "fields": [
            {n: getattr(p, n) for n in ("name", "type", "default", "low", "high", "help")}
            for p in kind.params()
        ],
    }


def _lines(kind: type[CompositionMethod]) -> list[str]:
    lines = [f"{kind.name}: {kind.title}, {kind.source}"]
    if kind.needs:
        lines.append(f"  needs {', '.join(sorted(kind.needs))}")
    return [*lines, *(f"  {p.name}={p.default}  {p.help} ({_allowed(p)})" for p in kind.params())]


def _products(kinds: Iterable[type[CompositionMethod]]) -> str:
    """How methods are combined."""
    by: dict[str, list[str]] = {}
    for kind in kinds:
        if choice := getattr(kind, "chooses", ""):
            by.setdefault(choice, []).append(kind.name)
    parts = "; ".join(f"{choice}: {', '.join(names)}" for choice, names in by.items())
    return (
        f"NAME*NAME multiplies the gates of methods, one each of those that choose by {parts}."
        " Fields are then called NAME.FIELD."
    )


def _allowed(param: Param) -> str:
    if param.type == "bool":
        return "true or false"
    if param.type == "str":
        return " or ".join(param.choices)
    ends = [("from", param.low), ("to", param.high)]
    limits = [f"{word} {end:g}" for word, end in ends if end is not None]
    return " ".join([param.type, *limits])
