"""What is installed here, what works, and why the rest does not."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

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
    """Which attention back ends work here, and which of torch's kernels comes first in the native
    one.
    """
    from compose.models.backends import BACKENDS
    from compose.models.routing import refusal

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    dtype = torch.float16 if gpu else torch.float32
    reasons = {name: refusal(name, device, dtype) for name in BACKENDS}
    reasons["xformers"] = missing("xformers") or reasons["xformers"]
    order = ("flash", "cudnn", "efficient", "math")  # torch's preference
    working = [kernel for kernel in order if not reasons[f"_native_{kernel}"]]
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
