"""``adapters``: what is in the library, and what is in a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from compose.errors import AdapterError

from ..console import USERS_FAULT, Screen, one_line

if TYPE_CHECKING:
    from compose.adapters.library import AdapterEntry


@click.group(short_help="List adapters, or look into adapter files.")
def adapters() -> None:
    """List the adapter library, or look into adapter files.

    The library is what ships, the folders named in $LORA_COMPOSE_ADAPTERS, and ./adapters.
    """


@adapters.command("list", short_help="List the adapter library.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
def list_(as_json: bool) -> None:
    """List every adapter of the library. Files that cannot be read are warned about."""
    from compose.adapters.library import AdapterLibrary

    screen = Screen(as_json=as_json)
    library = AdapterLibrary.default()
    entries = library.entries()
    for _, message in library.broken:
        screen.warn(message)
    screen.data([_described(entry) for entry in entries])
    rows = [
        [e.name, e.category, ", ".join(e.triggers[:3]), e.base or "?", str(e.rank), str(e.sites)]
        for e in entries
    ]
    for line in table(["name", "kind", "triggers", "base", "rank", "sites"], rows):
        screen.result(line)


@adapters.command(short_help="Say what is in adapter files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file, a line each.")
def inspect(files: tuple[str, ...], as_json: bool) -> None:
    """Say what is in adapter files, without loading a model.

    FILE is a path or a name of the library. All files are tried; the exit status is 2 when any of
    them could not be read.
    """
    from compose.adapters.inspection import inspect as look_into
    from compose.adapters.library import AdapterLibrary

    screen = Screen(as_json=as_json)
    library = AdapterLibrary.default()
    failed = False
    for file in files:
        try:
            entry = library.find(file)
            facts = {**look_into(entry.path), "name": entry.name}
        except AdapterError as error:
            failed = True
            click.echo(f"error: {one_line(str(error))}", err=True)
            facts = {"path": file, "error": one_line(str(error))}
            screen.data(facts)
            continue
        screen.data(facts)
        for name, value in facts.items():
            screen.result(f"{name + ':':<16}{_shown(value)}")
        screen.result("")
    if failed:
        sys.exit(USERS_FAULT)


def _described(entry: AdapterEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "kind": entry.category,
        "triggers": list(entry.triggers),
        "base": entry.base,
        "rank": entry.rank,
        "sites": entry.sites,
    }


def _shown(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "-"
    return one_line(str(value)) or "-"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table with aligned columns, head first."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
