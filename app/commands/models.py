"""``models``: base models on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compose.errors import MissingExtraError, ModelError

from ..console import Screen
from .adapters import table


@click.command(short_help="List the base models on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
def models(as_json: bool) -> None:
    """List the base models that are known here: the one that ships, and those in the hub's cache.

    Any other folder in diffusers layout, and a checkpoint of one file, can be given to --model as
    well.
    """
    from compose.models.detect import embedded_folder

    from ..hub import EMBEDDED, cached_models

    places = {EMBEDDED: embedded_folder(), **cached_models()}
    found = [_described(name, folder) for name, folder in places.items()]
    screen = Screen(as_json=as_json)
    screen.data(found)
    rows = [[m["name"], m["family"] or "-", m["reason"] or "ready", m["path"]] for m in found]
    for line in table(["name", "family", "state", "path"], rows):
        screen.result(line)


def _described(name: str, folder: Path) -> dict[str, Any]:
    from compose.models.detect import EMBEDDED, family_named, model_pipeline
    from compose.models.source import find

    entry = {"name": name, "family": None, "path": str(folder), "available": True, "reason": ""}
    model = EMBEDDED if name == EMBEDDED else str(folder)
    try:
        entry["family"] = family_named(model_pipeline(model).name, name).name
        find(model)
    except (ModelError, MissingExtraError) as error:
        return {**entry, "available": False, "reason": str(error)}
    return entry
