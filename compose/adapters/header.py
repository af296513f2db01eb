"""What a file says about itself, in its header and in the notes that lie beside it.

All of it is text from strangers: it is cut to size, freed of control characters, and never run.
What cannot be understood becomes a warning. Where sources disagree the first one counts:

1. ``name.json``, which the user edits by hand (AUTOMATIC1111's web UI)
2. the header's ``lora_compose`` (this project's trainer)
3. the header's ``modelspec.*`` (Stability's ModelSpec)
4. ``name.civitai.info``, then ``name.metadata.json`` (downloaders of Civitai)
5. the header's ``ss_*`` (kohya's trainer)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose.adapters.safe import shown

CATEGORIES = ("character", "clothing", "style", "background", "object", "other")
MAX_SIDECAR = 4 * 2**20
"""Largest note beside a file, and largest JSON text in a header, in bytes."""
MAX_LINE = 200
"""Longest name, trigger or tag that is kept, in characters."""
MAX_TEXT = 2000
"""Longest description that is kept, in characters."""
MAX_ITEMS = 32
"""Most triggers or tags that are kept."""
MAX_WEIGHT = 10.0
"""Largest default weight, by amount, that is believed."""


@dataclass(frozen=True)
class Facts:
    """What a file says about itself. Nothing of it is checked against the tensors.

    Attributes:
        title: how its author calls it.
        triggers: words that call what it has learned.
        category: one of `CATEGORIES`.
        class_word: ordinary word for what it shows.
        base: what it was trained on, in the file's own words.
        fingerprint: of the shape of that base, where this project's trainer wrote it.
        description: free text.
        default_weight: weight its author recommends.
        made_for: composition method that it was trained for, where this project's trainer wrote it.
        tags: free words, frequent ones first.
        rank: as stated.
        alpha: as stated.
        warnings: what could not be understood.
    """

    title: str = ""
    triggers: tuple[str, ...] = ()
    category: str = "other"
    class_word: str = ""
    base: str = ""
    fingerprint: str = ""
    description: str = ""
    default_weight: float = 1.0
    made_for: str = ""
    tags: tuple[str, ...] = ()
    rank: float | None = None
    alpha: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class _Reader:
    """Takes texts apart and keeps account of what could not be understood."""

    warnings: list[str] = field(default_factory=list)

    def table(self, label: str, text: str | bytes) -> dict[str, Any]:
        """A JSON object; an empty one, with a warning, where the text is none."""
        if len(text) > MAX_SIDECAR:
            self.warnings.append(f"{label} is longer than {MAX_SIDECAR} bytes and was not read")
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self.warnings.append(f"{label} is no JSON table and was not read")
            return {}
        return value

    def beside(self, path: Path) -> dict[str, Any]:
        """A JSON object from a note beside the file; an empty one where there is no note."""
        if not os.path.isfile(path):
            return {}
        try:
            with path.open("rb") as stream:
                return self.table(shown(path.name), stream.read(MAX_SIDECAR + 1))
        except OSError as error:
            self.warnings.append(f"{shown(path.name)} cannot be read ({error.strerror})")
            return {}

    def number(self, label: str, value: Any) -> float | None:
        """A finite number, also one written as text."""
        if value is None or value == "" or value == "None" or isinstance(value, bool):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.warnings.append(f"{label} is {shown(value, 40)}, not a number")
            return None
        return number


def note_paths(path: Path, name: str) -> tuple[Path, Path, Path]:
    """Where notes on an adapter would lie: the user's own, then those of downloaders."""
    beside = path.parent
    endings = ("json", "civitai.info", "metadata.json")
    first, second, third = (beside / f"{name}.{ending}" for ending in endings)
    return first, second, third


def read_facts(path: Path, name: str, metadata: Mapping[str, str]) -> Facts:
    """Collect what a file says about itself.

    Args:
        path: the file, or the PEFT folder, that notes would lie beside.
        name: its name without ending, which notes share.
        metadata: texts of its header.

    Returns:
        The facts; empty where nothing is said.
    """
    reader = _Reader()
    by_hand, info, downloaded = note_paths(path, name)
    sources = (
        _hand_written(reader, reader.beside(by_hand)),
        _own(reader, metadata),
        _modelspec(metadata),
        _civitai(reader.beside(info)),
        _civitai(reader.beside(downloaded)),
        _kohya(reader, metadata),
    )
    facts: dict[str, Any] = {}
    for source in sources:
        for key, value in source.items():
            if value and not facts.get(key):
                facts[key] = value
    if "category" not in facts:
        tags = [tag.lower() for tag in facts.get("tags", ())]
        facts["category"] = next((tag for tag in tags if tag in CATEGORIES), "other")
    weight = facts.get("default_weight", 1.0)
    if abs(weight) > MAX_WEIGHT:
        reader.warnings.append(f"the default weight {weight:g} is not believed, 1 is used")
        facts["default_weight"] = 1.0
    return Facts(**facts, warnings=tuple(reader.warnings))


def _own(reader: _Reader, metadata: Mapping[str, str]) -> dict[str, Any]:
    if "lora_compose" not in metadata:
        return {}
    table = reader.table("lora_compose", metadata["lora_compose"])
    category = _line(table.get("category"))
    if category and category not in CATEGORIES:
        reader.warnings.append(f"category is {category}, not one of {', '.join(CATEGORIES)}")
        category = ""
    return {
        "title": _line(table.get("name")),
        "triggers": _lines([*_listed(table.get("triggers")), table.get("trigger")]),
        "category": category,
        "class_word": _line(table.get("class_word")),
        "fingerprint": _line(table.get("base")),
        "made_for": _line(table.get("made_for")),
        "description": _text(table.get("description")),
        "default_weight": reader.number("default_weight", table.get("default_weight")),
    }


def _modelspec(metadata: Mapping[str, str]) -> dict[str, Any]:
    def get(name: str) -> str | None:
        return metadata.get(f"modelspec.{name}")

    return {
        "title": _line(get("title")),
        "triggers": _lines(_split(get("trigger_phrase"))),
        "base": _line(get("architecture")),
        "description": _text(get("description") or get("usage_hint")),
        "tags": _lines(_split(get("tags"))),
    }


def _kohya(reader: _Reader, metadata: Mapping[str, str]) -> dict[str, Any]:
    counts: dict[str, float] = {}
    if metadata.get("ss_tag_frequency"):
        folders = reader.table("ss_tag_frequency", metadata["ss_tag_frequency"])
        for folder in folders.values():
            for tag, count in folder.items() if isinstance(folder, dict) else ():
                if isinstance(count, int | float) and 0 < count < 1e12:
                    counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    return {
        "title": _line(metadata.get("ss_output_name")),
        "base": _line(metadata.get("ss_base_model_version")),
        "tags": _lines(sorted(counts, key=lambda tag: (-counts[tag], tag))),
        "rank": reader.number("ss_network_dim", metadata.get("ss_network_dim")),
        "alpha": reader.number("ss_network_alpha", metadata.get("ss_network_alpha")),
    }


def _hand_written(reader: _Reader, table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "triggers": _lines(_split(table.get("activation text"))),
        "base": _line(table.get("sd version")).replace("Unknown", ""),
        "description": _text(table.get("description") or table.get("notes")),
        "default_weight": reader.number("preferred weight", table.get("preferred weight")),
    }


def _civitai(table: Mapping[str, Any]) -> dict[str, Any]:
    version = table.get("civitai")
    version = version if isinstance(version, dict) else table
    model = version.get("model")
    model = model if isinstance(model, dict) else {}
    words = [part for item in _listed(version.get("trainedWords")) for part in _split(item)]
    return {
        "title": _line(model.get("name") or table.get("model_name")),
        "triggers": _lines(words),
        "base": _line(version.get("baseModel") or table.get("base_model")),
        "tags": _lines(_listed(model.get("tags")) or _listed(table.get("tags"))),
    }


def _listed(value: Any) -> list[Any]:
    return value[: 4 * MAX_ITEMS] if isinstance(value, list) else []


def _split(value: Any) -> list[str]:
    """Words between commas."""
    return value[:MAX_SIDECAR].split(",") if isinstance(value, str) else []


def _lines(values: Iterable[Any]) -> tuple[str, ...]:
    """Cleaned texts, each once, the first `MAX_ITEMS`."""
    found: dict[str, None] = {}
    for value in values:
        if line := _line(value):
            found[line] = None
        if len(found) == MAX_ITEMS:
            break
    return tuple(found)


def _line(value: Any) -> str:
    return _clean(value, MAX_LINE, str.isprintable)


def _text(value: Any) -> str:
    return _clean(value, MAX_TEXT, lambda c: c.isprintable() or c == "\n")


def _clean(value: Any, limit: int, keep: Callable[[str], bool]) -> str:
    """Text of limited length without control characters; empty for anything but text."""
    if not isinstance(value, str):
        return ""
    head = value.strip()[:limit]
    return "".join(c if keep(c) else " " for c in head).strip()
