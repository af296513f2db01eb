"""PEFT settings that come with factors: alpha, how rank enters, and what is no plain LoRA."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compose.adapters.patterns import PathPattern, compile_pattern
from compose.adapters.safe import refusal, shown

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
METADATA_KEY = "lora_adapter_metadata"
MAX_CONFIG = 4 * 2**20
"""Largest settings file, in bytes."""

# Starts that leave the base weights as they are. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) write
# to them, and their factors mean nothing on the untouched base.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_VARIANTS = {
    "use_dora": "DoRA (weight decomposition)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA of bare parameters",
}
_ADVICE = "use a plain LoRA, or one converted to it by the tool that made this file"


@dataclass(frozen=True)
class PeftSettings:
    """What PEFT's `LoraConfig` says about the factors of one model.

    Attributes:
        rank: r where no pattern says otherwise.
        alpha: where no pattern says otherwise.
        rank_pattern: pattern of paths to r; the first that matches counts.
        alpha_pattern: pattern of paths to alpha; the first that matches counts.
        rslora: whether the factors are scaled by alpha / sqrt(r) (https://arxiv.org/abs/2312.03732).
    """

    rank: int | None = None
    alpha: float | None = None
    rank_pattern: Mapping[str, float] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    rslora: bool = False

    @cached_property
    def _ranks(self) -> tuple[tuple[PathPattern, float], ...]:
        return tuple((compile_pattern(p), r) for p, r in (self.rank_pattern or {}).items())

    @cached_property
    def _alphas(self) -> tuple[tuple[PathPattern, float], ...]:
        return tuple((compile_pattern(p), a) for p, a in (self.alpha_pattern or {}).items())

    def rank_of(self, path: str) -> float | None:
        """The rank that is promised for a module."""
        return next((r for p, r in self._ranks if p.matches(path)), self.rank)

    def alpha_of(self, path: str) -> float | None:
        """The alpha of a module."""
        return next((a for p, a in self._alphas if p.matches(path)), self.alpha)


def scale(alpha: float | None, rank: int, *, rslora: bool = False) -> float:
    """Factor of the low-rank product: alpha / r, for rsLoRA alpha / sqrt(r), without alpha 1."""
    if alpha is None:
        return 1.0
    return alpha / (math.sqrt(rank) if rslora else rank)


def read_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, PeftSettings]:
    """Find the PEFT settings of an adapter file.

    Args:
        path: the weights.
        metadata: texts of its header.

    Returns:
        Component name to its settings; the empty name holds for components without their own. Empty
        where there are no settings at all.

    Raises:
        AdapterFormatError: settings that cannot be read, or that are not of plain LoRA. They decide
            on the strength of the adapter, so there is no going on without them.
    """
    if METADATA_KEY in metadata:
        table = _table(path, METADATA_KEY, metadata[METADATA_KEY])
        groups: dict[str, dict[str, Any]] = {}
        for key, value in table.items():
            name, _, field = key.rpartition(".")
            groups.setdefault(name, {})[field] = value
        return {name: _settings(path, group) for name, group in groups.items()}
    config = path.with_name(CONFIG_NAME)
    if path.name != WEIGHTS_NAME or not config.is_file():
        return {}
    if config.stat().st_size > MAX_CONFIG:
        limit = f"at most {MAX_CONFIG} bytes"
        raise refusal(config, f"has {config.stat().st_size} bytes", limit, "save the adapter again")
    return {"": _settings(config, _table(config, config.name, config.read_bytes()))}


def _table(path: Path, name: str, text: str | bytes) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise refusal(path, f"{name} is no JSON table", "PEFT's settings", "save the adapter again")
    return table


def _settings(path: Path, table: Mapping[str, Any]) -> PeftSettings:
    """Check one table of settings and take from it what scales the factors."""
    kind = table.get("peft_type") or "LORA"
    if kind != "LORA":
        raise refusal(path, f"is an adapter of kind {shown(kind, 40)}", "plain LoRA", _ADVICE)
    for field, name in _VARIANTS.items():
        if table.get(field):
            raise refusal(path, f"is {name} ({field})", "plain LoRA", _ADVICE)
    start = table.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        given = f"has init_lora_weights={shown(start, 40)}, which changes the base weights"
        advice = "convert it with PEFT (path_initial_model_for_weight_conversion)"
        raise refusal(path, given, "plain LoRA", advice)
    rank, alpha = _number(path, table, "r", low=1), _number(path, table, "lora_alpha")
    settings = PeftSettings(
        rank=None if rank is None else int(rank),
        alpha=alpha,
        rank_pattern=_patterns(path, table, "rank_pattern"),
        alpha_pattern=_patterns(path, table, "alpha_pattern"),
        rslora=bool(table.get("use_rslora")),
    )
    try:
        _ = settings._ranks, settings._alphas
    except ValueError as error:
        advice = "write the paths of the modules out in rank_pattern and alpha_pattern"
        raise refusal(path, f"has {shown(error)}", "a pattern of paths", advice) from None
    return settings


def _patterns(path: Path, table: Mapping[str, Any], field: str) -> dict[str, float]:
    found = table.get(field) or {}
    if not isinstance(found, dict):
        raise refusal(path, f"{field} is no table", "a table", "save the adapter again")
    values = {key: _number(path, found, key) for key in found}
    return {key: value for key, value in values.items() if value is not None}


def _number(path: Path, table: Mapping[str, Any], key: str, low: float = -1e6) -> float | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1e6:
        given = f"{shown(key, 60)} is {shown(value, 40)}"
        raise refusal(path, given, f"a number from {low:g} to 1e6", "save the adapter again")
    return float(value)
