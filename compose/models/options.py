"""How a base model is brought into memory, apart from where it lies."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from compose.errors import RequestError, nearest
from compose.models.backends import check_name

OFFLOADS = ("none", "model", "sequential")
QUANTIZATIONS = ("none", "bnb4", "bnb8", "torchao-int8")


@dataclass(frozen=True)
class LoadOptions:
    """Where parts of a model come from and what is done to fit them into memory.

    Attributes:
        config: folder in diffusers layout of the same family, for a checkpoint of one file: it
            gives the settings of the parts, the words of the tokenizers and the parts that the file
            lacks. None looks for the family's usual settings in the hub's cache.
        denoiser: file with the weights of the denoiser, instead of the model's own: safetensors or
            GGUF.
        quantize: what large layers of the denoiser and of a T5 text encoder are stored as: "none",
            "bnb4" (4-bit NF4 of bitsandbytes), "bnb8" (its LLM.int8()), "torchao-int8" (8-bit
            weights). Adapters stay in full precision beside them.
        offload: what lies on the GPU: "none" everything, "model" the part that works, "sequential"
            the layer that works. Changes no pixel.
        vae_tiling: decode large pictures in overlapping tiles, which needs less memory and changes
            pixels a little.
        attention_backend: what computes attention in the denoiser, a key of
            `compose.models.backends.BACKENDS`; None leaves it to the model. Changes rounding.

    Raises:
        RequestError: an unknown word.
    """

    config: str | None = None
    denoiser: str | None = None
    quantize: str = "none"
    offload: str = "none"
    vae_tiling: bool = False
    attention_backend: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("quantize", QUANTIZATIONS), ("offload", OFFLOADS)):
            value = getattr(self, name)
            if value not in known:
                raise RequestError(f"{name} {value!r} is unknown; {nearest(str(value), known)}")
        if self.attention_backend is not None:
            check_name(self.attention_backend)

    def check_device(self, device: str) -> None:
        """Refuse what makes no sense on a kind of device, "cpu" or "cuda".

        Raises:
            RequestError: offloading without a GPU, or quantisation that needs one.
        """
        if device != "cpu":
            return
        if self.offload != "none":
            raise RequestError(
                f"offload {self.offload} was asked for on a cpu; expected a GPU to take the load"
                " off, so drop --offload or use --device cuda"
            )
        if self.quantize.startswith("bnb"):
            raise RequestError(
                f"quantize {self.quantize} was asked for on a cpu; bitsandbytes is driven on CUDA"
                " GPUs only, so use --quantize torchao-int8 or --device cuda"
            )

    def deciding(self) -> dict[str, Any]:
        """What of it can change pixels, where it is not as usual; a form that JSON can hold."""
        usual = {f.name: f.default for f in fields(self) if f.name != "offload"}
        return {name: v for name, d in usual.items() if (v := getattr(self, name)) != d}


USUAL = LoadOptions()
"""Everything as the model has it."""
