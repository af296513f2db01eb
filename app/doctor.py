"""What is installed here, what works, and why the rest does not."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from compose.adapters.library import AdapterLibrary

from .identity import DISTRIBUTION, installed, model_fingerprint

NEEDED = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow")
OPTIONAL: Mapping[str, str] = {
    "peft": "train",
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "gguf": "gguf",
    "gradio": "app",
    "open-clip-torch": "metrics",
    "ray": "ray",
    "triton": "triton",
    "xformers": "xformers",
}
"""Distribution to the extra that installs it."""
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def missing(name: str) -> str:
    """Why an optional distribution is not there; empty when it is."""
    if installed(name) is not None:
        return ""
    return f"not installed: run pip install 'lora-compose[{OPTIONAL[name]}]'"


def examine() -> dict[str, Any]:
    """Everything that the doctor command reports."""
    return {
        "versions": _versions(),
        "device": _device(),
        "kernels": _kernels(),
        "attention": _attention(),
        "memory": _memory(),
        "model": _model(),
        "adapters": _adapters(),
    }


def _versions() -> dict[str, str | None]:
    found = {"python": platform.python_version(), DISTRIBUTION: installed(DISTRIBUTION)}
    return {**found, **{name: installed(name) for name in (*NEEDED, *OPTIONAL)}}


def _device() -> dict[str, Any]:
    if not torch.cuda.is_available():
        reason = (
            "this torch was built without CUDA" if torch.version.cuda is None else "no CUDA GPU"
        )
        return {"name": "cpu", "threads": torch.get_num_threads(), "cuda": False, "reason": reason}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "cuda": True,
        "reason": "",
    }


def _kernels() -> list[dict[str, Any]]:
    return [{"name": "gated_lora/reference", "available": True, "reason": ""}]


def _attention() -> dict[str, Any]:
    """Which implementations PyTorch's attention has here, tried in the order of its preference."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    q = torch.randn(1, 2, 64, 32, device=device, dtype=dtype)
    reasons = {name: _refusal(backend, q) for name, backend in _BACKENDS.items()}
    working = [name for name, reason in reasons.items() if not reason]
    reasons["xformers"] = missing("xformers")
    return {
        "backend": f"sdpa/{working[0]}" if working else None,
        "backends": [
            {"name": name, "available": not reason, "reason": reason}
            for name, reason in reasons.items()
        ],
    }


def _memory() -> list[dict[str, Any]]:
    """Which ways of fitting a large model into memory work here."""
    from compose.models.options import OFFLOADS, QUANTIZATIONS
    from compose.models.quantization import PACKAGES

    gpu = torch.cuda.is_available()
    reasons = {f"offload {kind}": "" if gpu else "needs a CUDA GPU" for kind in OFFLOADS[1:]}
    for kind in QUANTIZATIONS[1:]:
        driven = gpu or not kind.startswith("bnb")
        reasons[f"quantize {kind}"] = missing(PACKAGES[kind]) or (
            "" if driven else "needs a CUDA GPU"
        )
    reasons["denoiser .gguf"] = missing("gguf")
    return [{"name": n, "available": not r, "reason": r} for n, r in reasons.items()]


def _refusal(backend: SDPBackend, q: torch.Tensor) -> str:
    """Why a backend does not run here; empty when it does."""
    if backend is SDPBackend.CUDNN_ATTENTION and not q.is_cuda:
        return "needs a CUDA GPU"
    if backend is SDPBackend.EFFICIENT_ATTENTION and not q.is_cuda:
        return "needs a CUDA GPU"
    try:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(q, q, q)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def _model() -> dict[str, Any]:
    from compose.errors import ModelError
    from compose.models.detect import EMBEDDED, embedded_folder
    from compose.models.source import find

    folder = embedded_folder()
    entry: dict[str, Any] = {"name": EMBEDDED, "path": str(folder)}
    try:
        source = find(EMBEDDED)
    except ModelError as error:
        return {**entry, "available": False, "reason": str(error), "bytes": 0, "hash": None}
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    hashed = model_fingerprint(source.files())
    return {**entry, "available": True, "reason": "", "bytes": size, "hash": hashed}


def _adapters() -> dict[str, Any]:
    library = AdapterLibrary.default()
    broken = [{"path": str(path), "reason": reason} for path, reason in library.broken]
    return {
        "folders": [str(folder) for folder in library.folders],
        "count": len(library.entries()),
        "broken": broken,
    }


def in_words(found: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    versions = found["versions"].items()
    lines = [f"{name} {version or missing(name) or 'missing'}" for name, version in versions]
    device, attention, model = found["device"], found["attention"], found["model"]
    lines.append(f"device: {device['name']} {device['reason'] and '(' + device['reason'] + ')'}")
    for kind in found["kernels"]:
        lines.append(f"kernel {kind['name']}: {kind['reason'] or 'works'}")
    lines.append(f"attention: {attention['backend']}")
    lines += [f"  {b['name']}: {b['reason'] or 'works'}" for b in attention["backends"]]
    lines += [f"{way['name']}: {way['reason'] or 'works'}" for way in found["memory"]]
    state = f"{model['bytes'] / 1e6:.0f} MB, {model['hash'][:10]}" if model["available"] else None
    lines.append(f"embedded model: {state or model['reason']}")
    lines.append(f"adapters: {found['adapters']['count']}")
    lines += [f"  broken: {b['path']}: {b['reason']}" for b in found["adapters"]["broken"]]
    return lines
