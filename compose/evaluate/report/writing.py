"""Writes both forms of a report beside the records."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from compose.errors import RequestError
from compose.evaluate.records import NAME
from compose.evaluate.report.comparing import (
    Loaded,
    compare_loaded,
    load_report,
    read_report,
)
from compose.evaluate.report.figures import (
    corpus,
    costs,
    differences,
    means,
    retentions,
    transfers,
)
from compose.evaluate.report.page import page
from compose.evaluate.report.sections import Content
from compose.evaluate.report.table import load_table
from compose.whole import write_whole

JSON, HTML = "report.json", "report.html"
_PROGRAMS = ("lora-compose", "torch", "diffusers", "transformers", "numpy")


def write_report(
    folder: Path, *, compare: Path | None = None, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html`` from the records of a folder.

    Args:
        folder: holds ``records.jsonl`` and the pictures that it names.
        compare: an older ``report.json`` of the same suite; it may be the one that is written anew.
        command: words of the command that made the pictures; those of this process when not given.
            Commands that an earlier report of the folder names are kept.

    Returns:
        What stands in ``report.json``.

    Raises:
        RequestError: no records, records of several suites or that cannot be read, or a report to
            compare with that is none.
    """
    older = load_report(compare) if compare is not None else None
    table = load_table(folder)
    made = {
        "commands": _commands(folder, sys.argv if command is None else command),
        "versions": _versions(),
        "host": _host(),
    }
    apart = tuple(differences(table))
    content = Content(
        table,
        means=(*means(table), *corpus(folder, table)),
        differences=apart,
        retentions=tuple(retentions(table)),
        transfers=transfers(table, apart),
        costs=costs(table),
        made=made,
    )
    data = _data(content, folder)
    if older is not None:
        comparison = compare_loaded(older, Loaded(folder / JSON, data, table))
        content = replace(content, comparison=comparison)
        data["comparison"] = {**comparison.to_json(), "summary": comparison.lines()}
    write_whole(folder / HTML, page(content, folder).encode())
    write_whole(folder / JSON, f"{json.dumps(data, indent=1, allow_nan=False)}\n".encode())
    return data


def _data(content: Content, folder: Path) -> dict[str, Any]:
    """What ``report.json`` holds, but for a comparison."""
    table = content.table
    return {
        "suite": table.suite,
        "seeds": table.seeds,
        "rows": [figure.to_json() for figure in content.means],
        "report": str(folder / HTML),
        "headline": table.headline,
        "differences": [figure.to_json() for figure in content.differences],
        "transfer": list(content.transfers),
        "retention": [figure.to_json() for figure in content.retentions],
        "cost": list(content.costs),
        "resampled": table.units,
        "records": {
            "file": NAME,
            "pictures": sum(len(row.records) for row in table.rows),
            "sha256": table.digest,
        },
        **content.made,
    }


def _commands(folder: Path, words: Sequence[str]) -> list[str]:
    """The commands of an earlier report of these records, and this one."""
    earlier: list[str] = []
    with suppress(RequestError):
        earlier = list(read_report(folder / JSON)["commands"])
    own = shlex.join([Path(words[0]).name, *words[1:]]) if words else ""
    return list(dict.fromkeys([*earlier, own]))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PROGRAMS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _host() -> dict[str, str | int | None]:
    """The machine on which the report was written, without its name."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "device": device,
    }
