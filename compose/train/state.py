"""Checkpoints of a training: nested tables of tensors and plain values, as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from compose.adapters.saving import write_file

_OUTLINE = "outline"
"""Key of the header's text: the nesting, in which a tensor is a name and its strides."""


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; either the old file stays or the whole new one is there.

    Args:
        state: tables (keys may be numbers, as an optimiser's are), lists, tuples, tensors, numbers,
            texts, truth values, None.
        path: of the file.
    """
    tensors: dict[str, Tensor] = {}

    def outline(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous()
            return {"tensor": name, "stride": value.stride()}
        if isinstance(value, Mapping):
            return {"table": [[key, outline(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {"list": [outline(item) for item in value]}
        return value

    text = json.dumps(outline(state))  # fills `tensors` first
    write_file(path, tensors, {_OUTLINE: text})


def load_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what `save_state` wrote; tuples come back as lists.

    Tensors keep their strides: a fused optimiser wants those of its parameters, also where a size
    of 1 leaves them open, as in a 1x1 convolution.
    """
    with safe_open(path, "pt", device=str(device)) as file:

        def filled(part: Any) -> Any:
            if not isinstance(part, dict):
                return part
            if "table" in part:
                return {key: filled(item) for key, item in part["table"]}
            if "list" in part:
                return [filled(item) for item in part["list"]]
            value: Tensor = file.get_tensor(part["tensor"])
            laid = torch.empty_strided(
                value.shape, part["stride"], dtype=value.dtype, device=value.device
            )
            return laid.copy_(value)

        return filled(json.loads(file.metadata()[_OUTLINE]))
