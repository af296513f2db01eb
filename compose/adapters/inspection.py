"""Everything that is known of one adapter file, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compose.adapters.hashes import file_hashes
from compose.adapters.keys import component
from compose.adapters.library import read_entry
from compose.adapters.outline import Pair
from compose.adapters.reading import AdapterFile, read_adapter
from compose.adapters.resolve import module_shapes, resolve


def inspect(path: str | Path, components: Mapping[str, nn.Module] | None = None) -> dict[str, Any]:
    """Describe an adapter file.

    Args:
        path: a safetensors file, or a PEFT folder.
        components: parts of a model, among whose modules the names of the file are looked up.

    Returns:
        Strings, numbers, lists and tables only. "sites" counts modules by component and kind:
        linear, conv (a kernel larger than 1x1), and 1x1, which may be either. "alpha" is the range
        over all modules, where one without alpha counts with its rank.

    Raises:
        AdapterFormatError: the file cannot be read as a plain LoRA.
        AdapterMismatchError: it does not fit `components`.
    """
    entry = read_entry(path)
    file = read_adapter(path)
    hashes = file_hashes(path)
    ranks = [raw.pair.rank for raw in file.modules.values()]
    alphas = [raw.pair.rank if raw.alpha is None else raw.alpha for raw in file.modules.values()]
    told = {
        "name": entry.name,
        "path": str(entry.path),
        "title": file.facts.title,
        "layout": file.layout,
        "kind": entry.category,
        "triggers": list(entry.triggers),
        "base": entry.base,
        "fingerprint": entry.fingerprint,
        "description": entry.description,
        "default_weight": entry.default_weight,
        "tags": list(entry.tags),
        "rank": [min(ranks), max(ranks)],
        "alpha": [min(alphas), max(alphas)],
        "sites": _count(file),
        "dtypes": list(file.outline.dtypes),
        "bytes": entry.size,
        "parameters": sum(raw.down.numel() + raw.up.numel() for raw in file.modules.values()),
        "hashes": {
            "sha256": hashes.sha256,
            "AutoV2": hashes.autov2,
            "AutoV3": hashes.autov3,
        },
        "ignored": list(file.ignored),
        "warnings": list(file.warnings),
    }
    if components is not None:
        modules = {part: module_shapes(model) for part, model in components.items()}
        _, report = resolve(file, modules)
        told |= {"matched": list(report.matched), "unmatched": list(report.unmatched)}
    return told


def _count(file: AdapterFile) -> dict[str, dict[str, int]]:
    """Number of modules by component, then by kind. An unnamed component is "?"."""
    counts: dict[str, dict[str, int]] = {}
    for raw in file.modules.values():
        kinds = counts.setdefault(component(raw.pair.where) or "?", {})
        kind = _kind(raw.pair)
        kinds[kind] = kinds.get(kind, 0) + 1
    return counts


def _kind(pair: Pair) -> str:
    kernel = pair.down_shape[2:]
    if not kernel:
        return "linear"
    return "1x1" if kernel == (1, 1) else "conv"
