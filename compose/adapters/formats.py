"""Adapter files in one call. The steps lie in `reading`, `resolve` and `saving`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from compose.adapters.adapter import Adapter
from compose.adapters.reading import AdapterFile, RawFactors, read_adapter
from compose.adapters.resolve import KeyReport, Modules, ModuleShape, module_shapes, resolve
from compose.adapters.saving import save_adapter

__all__ = [
    "AdapterFile",
    "KeyReport",
    "ModuleShape",
    "Modules",
    "RawFactors",
    "load_adapter",
    "module_shapes",
    "read_adapter",
    "resolve",
    "save_adapter",
]


def load_adapter(
    path: str | Path, components: Mapping[str, nn.Module], *, name: str | None = None
) -> tuple[Adapter, KeyReport]:
    """Read an adapter file and map it to a model.

    Args:
        path: a safetensors file, or a PEFT folder.
        components: parts of the model that adapters may change, such as "unet" and "text_encoder",
            as they were loaded: without gated layers or PEFT layers in them.
        name: what to call the adapter; None takes the name of the file.

    Returns:
        The adapter and what became of every name of the file.

    Raises:
        AdapterFormatError: the file cannot be read as a plain LoRA.
        AdapterMismatchError: it does not fit the model.
    """
    modules = {part: module_shapes(model) for part, model in components.items()}
    return resolve(read_adapter(path), modules, name=name)
