"""Where to compute, and in which precision."""

from __future__ import annotations

import torch
from torch import nn

from compose.errors import RequestError

_NO_MEMORY = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory")
_WORKING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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


def pick_dtype(name: str, device: torch.device, half: torch.dtype = torch.float16) -> torch.dtype:
    """ "auto" to the usual dtype of a device.

    Args:
        name: "auto", "fp32", "bf16" or "fp16".
        device: where the model runs.
        half: what "auto" means on a GPU.

    Raises:
        RequestError: an unknown name.
    """
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name == "auto":
        return torch.float32 if device.type == "cpu" else half
    if name not in known:
        raise RequestError(f"unknown dtype {name!r}; expected auto, {', '.join(known)}")
    return known[name]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice, on the GPU or beside it."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error) for words in _NO_MEMORY)


def compute_dtype(module: nn.Module) -> torch.dtype:
    """Dtype that a module computes in, whatever its weights are stored in.

    Quantised layers may say so themselves: `compute_dtype` of bitsandbytes' Linear4bit and of
    diffusers' GGUFLinear. Otherwise it is the dtype of the first parameter that is no packed or
    8-bit storage, such as the bias of bitsandbytes' Linear8bitLt; float32 where there is none.
    Weights are not read, so they may lie on the meta device.
    """
    stated = getattr(module, "compute_dtype", None)
    if isinstance(stated, torch.dtype):
        return stated
    return next((p.dtype for p in module.parameters() if p.dtype in _WORKING), torch.float32)
