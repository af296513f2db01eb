"""Store the large layers of a model in fewer bits, as diffusers and transformers do it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from compose.errors import MissingExtraError

EXTRAS: Mapping[str, str] = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "gguf": "gguf"}
"""Package, as files and messages name it, to the extra that installs it."""
PACKAGES: Mapping[str, str] = {
    "bnb4": "bitsandbytes",
    "bnb8": "bitsandbytes",
    "torchao-int8": "torchao",
}
"""Way of quantising to the package that does it."""


def need(package: str, what: str) -> None:
    """Refuse to go on without an optional package.

    Args:
        package: name to import.
        what: needs it, for the message.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec(package) is None:
        raise MissingExtraError(
            f"{what} needs the package {package}, which is not installed; run pip install"
            f" 'lora-compose[{EXTRAS[package]}]'"
        )


def configs(name: str, libraries: Mapping[str, str], dtype: torch.dtype) -> dict[str, Any]:
    """How each of some components is to be quantised.

    Args:
        name: one of `compose.models.options.QUANTIZATIONS`.
        libraries: component to "diffusers" or "transformers": each has settings of its own.
        dtype: that the layers compute in.

    Returns:
        Component to its settings; empty for "none".

    Raises:
        MissingExtraError: the package that does it is not installed.
    """
    if name == "none":
        return {}
    need(PACKAGES[name], f"--quantize {name}")
    return {part: _config(name, library, dtype) for part, library in libraries.items()}


def _config(name: str, library: str, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    home: Any = diffusers if library == "diffusers" else transformers
    if name == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return home.TorchAoConfig(Int8WeightOnlyConfig())
    if name == "bnb8":
        return home.BitsAndBytesConfig(load_in_8bit=True)
    return home.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
