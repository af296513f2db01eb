"""Everything that is known of one adapter file, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compose.adapters.bases import own_component
from compose.adapters.hashes import file_hashes
from compose.adapters.keys import component
from compose.adapters.library import read_entry
from compose.adapters.outline import Pair
from compose.adapters.reading import AdapterFile, read_adapter
from compose.adapters.resolve import resolve
from compose.adapters.tables import module_shapes


def inspect(path: str | Path, components: Mapping[str, nn.Module] | None = None) -> dict[str, Any]:
    """Describe an adapter file.

    Args:
        path: a safetensors file, or a PEFT folder.
        components: parts of a model, among whose modules the names of the file are looked up.

    Returns:
        Strings, numbers, lists and tables only. "sites" counts modules by component and kind:
        linear, conv (a kernel larger than 1x1), and 1x1, which may be either; a module that the
        file has fused counts once. "alpha" is the range over all modules, where one without alpha
        counts with its rank. "trainer" is the program that the header shows, where it is known.

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
        "trainer": _trainer(file.metadata),
        "kind": entry.category,
        "triggers": list(entry.triggers),
        "base": entry.base,
        "fingerprint": entry.fingerprint,
        "description": entry.description,
        "default_weight": entry.default_weight,
        "made_for": entry.made_for,
        "tags": list(entry.tags),
        "rank": [min(ranks), max(ranks)],
        "alpha": [min(alphas), max(alphas)],
        "sites": _count(file, entry.base),
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
        told |= {
            "matched": list(report.matched),
            "unmatched": list(report.unmatched),
            "lacking": dict(report.lacking),
        }
    return told


def _trainer(metadata: Mapping[str, str]) -> str:
    """The program whose marks a header bears; ai-toolkit writes some of kohya's as well."""
    if "lora_compose" in metadata:
        return "lora-compose"
    if "ai-toolkit" in metadata.get("software", ""):
        return "ai-toolkit"
    starts = {name.partition("_")[0] for name in metadata}
    return "OneTrainer" if "ot" in starts else "sd-scripts" if "ss" in starts else ""


def _count(file: AdapterFile, base: str) -> dict[str, dict[str, int]]:
    """Number of modules by component, then by kind. An unnamed component is "?"."""
    counts: dict[str, dict[str, int]] = {}
    for raw in file.modules.values():
        part = own_component(base, component(raw.pair.where))
        kinds = counts.setdefault(part or "?", {})
        kind = _kind(raw.pair)
        kinds[kind] = kinds.get(kind, 0) + 1
    return counts


def _kind(pair: Pair) -> str:
    kernel = pair.down_shape[2:]
    if not kernel:
        return "linear"
    return "1x1" if kernel == (1, 1) else "conv"
