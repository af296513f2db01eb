"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from compose.errors import RequestError


def pick_device(name: str) -> torch.device:
    """ "auto" to a device that is there.

    Raises:
        RequestError: the device is unknown or missing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise RequestError(f"unknown device {name!r}; expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError(
            "device cuda was asked for, but torch finds no CUDA device here; use --device cpu"
        )
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" to the usual dtype of a device.

    Raises:
        RequestError: an unknown name.
    """
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in known:
        raise RequestError(f"unknown dtype {name!r}; expected auto, {', '.join(known)}")
    return known[name]
