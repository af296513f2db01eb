"""Writing adapter files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from compose.adapters.adapter import Adapter
from compose.adapters.safe import check_finite, shown
from compose.errors import RequestError
from compose.whole import whole

_ALIGN = 8  # the header's length is a multiple of it, so that tensors stay aligned


def save_adapter(
    adapter: Adapter,
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an adapter in diffusers' layout: ``<component>.<path>.lora_A.weight`` and ``lora_B``.

    Alpha is folded in already, so the file has none, which every reader takes as a scale of 1.

    Args:
        adapter: what to write.
        path: where, a name that ends in .safetensors; missing folders are made.
        metadata: texts for the header. Category and triggers are added where ``lora_compose`` is
            not among them.
        dtype: of the tensors. In float32 reading the file back gives the very same bits.

    Raises:
        RequestError: the name has another ending, or the adapter is empty.
        AdapterFormatError: a factor that is not finite in `dtype`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise RequestError(
            f"{shown(path, 400)} was given as an adapter's file; expected a name that ends in"
            " .safetensors; rename it"
        )
    if not adapter.factors:
        raise RequestError(
            f"adapter {adapter.name} changes no module; expected factors; load or train one first"
        )
    tensors: dict[str, Tensor] = {}
    for site, factors in adapter.factors.items():
        up = factors.up if factors.down.ndim == 2 else factors.up[:, :, None, None]
        for key, factor in ((f"{site}.lora_A.weight", factors.down), (f"{site}.lora_B.weight", up)):
            tensors[key] = factor.detach().to("cpu", dtype).contiguous()
            check_finite(path, key, tensors[key])
    own = {"format": 1, "category": adapter.category, "triggers": list(adapter.triggers)}
    texts = {"lora_compose": json.dumps(own, sort_keys=True)} | dict(metadata or {})
    write_file(path, tensors, texts)


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; the same content gives the same bytes.

    Args:
        path: where; missing folders are made.
        tensors: contiguous tensors on the CPU.
        metadata: texts for the header.
    """
    payload = save(dict(tensors))
    length = int.from_bytes(payload[:8], "little")
    entries = json.loads(payload[8 : 8 + length])
    # The library writes texts in random order, so the header is put in order here.
    table = {"__metadata__": dict(sorted(metadata.items())), **dict(sorted(entries.items()))}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    with whole(path) as part, part.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        stream.write(memoryview(payload)[8 + length :])
