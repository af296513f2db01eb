"""The same random factors written in every layout, and the adapter that each must give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests import tiny

ATTENTION_TEXT = tuple(
    f"encoder.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        *(f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")),
        *("mlp.fc1", "mlp.fc2"),
    )
)
PATHS = {
    "unet": (*tiny.ATTENTION, *tiny.CONVOLUTIONS, "time_embedding.linear_1", "conv_in"),
    "text_encoder": ATTENTION_TEXT,
}


@dataclass(frozen=True)
class Raw:
    """Factors before alpha / rank: down [r, d_in(, kh, kw)], up [d_out, r(, 1, 1)]."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def folded(self) -> Tensor:
        return self.up * (self.alpha / self.rank)

    @property
    def delta(self) -> Tensor:
        """In the shape of the weight."""
        product = self.folded.flatten(1).double() @ self.down.flatten(1).double()
        return product.reshape(self.up.shape[0], *self.down.shape[1:])


Truth = Mapping[str, Mapping[str, Raw]]
"""Component to path to factors."""


def random_truth(components: Mapping[str, nn.Module], seed: int = 0) -> Truth:
    """Factors of unequal ranks and alphas for the modules of `PATHS`."""
    generator = torch.Generator().manual_seed(seed)
    truth: dict[str, dict[str, Raw]] = {}
    for part, paths in PATHS.items():
        truth[part] = {}
        for number, path in enumerate(paths):
            shape = components[part].get_submodule(path).weight.shape
            rank = 1 + number % 4
            down = torch.randn(rank, *shape[1:], generator=generator)
            up = 0.05 * torch.randn(shape[0], rank, generator=generator)
            alpha = (0.5, 1.0, 3.0, 8.0, 2.5)[number % 5]
            truth[part][path] = Raw(down, up.reshape(*up.shape, *(1,) * (len(shape) - 2)), alpha)
    return truth


def kohya(truth: Truth, path: Path, *, odd_shapes: bool = False, text: str = "te") -> Path:
    """Underscores for dots. `odd_shapes`: linear factors as 1x1 convolutions, and the reverse."""
    tensors = {}
    for part, raws in truth.items():
        start = "lora_unet_" if part == "unet" else f"lora_{text}_text_model_"
        for name, raw in raws.items():
            key = start + name.replace(".", "_")
            down, up = raw.down, raw.up
            if odd_shapes:
                if down.ndim == 2:
                    down, up = down[..., None, None], up[..., None, None]
                elif down.shape[2:] == (1, 1):
                    down, up = down.flatten(1), up.flatten(1)
            tensors |= {
                f"{key}.lora_down.weight": down,
                f"{key}.lora_up.weight": up,
                f"{key}.alpha": torch.tensor(raw.alpha),
            }
    return write(tensors, path)


def kohya_odd(truth: Truth, path: Path) -> Path:
    return kohya(truth, path, odd_shapes=True, text="te1")


def kohya_dotted(truth: Truth, path: Path) -> Path:
    tensors = {}
    for part, raws in truth.items():
        start = "lora_unet." if part == "unet" else "lora_te.text_model."
        for name, raw in raws.items():
            tensors |= {
                f"{start}{name}.lora_down.weight": raw.down,
                f"{start}{name}.lora_up.weight": raw.up,
                f"{start}{name}.alpha": torch.tensor(raw.alpha),
            }
    return write(tensors, path)


def diffusers(
    truth: Truth, path: Path, *, segment: str = "", text_model: str = "", folded: bool = False
) -> Path:
    """PEFT's names after the component's. `folded`: alpha / rank in the factors, no metadata."""
    tensors = {}
    metadata: dict[str, object] = {}
    for part, raws in truth.items():
        start = f"{part}." if part == "unet" else f"{part}.{text_model}"
        for name, raw in raws.items():
            tensors[f"{start}{name}.lora_A{segment}.weight"] = raw.down
            tensors[f"{start}{name}.lora_B{segment}.weight"] = raw.folded if folded else raw.up
        inner = {start.removeprefix(f"{part}.") + name: raw for name, raw in raws.items()}
        metadata |= {f"{part}.{k}": v for k, v in lora_config(inner).items()}
    texts = {} if folded else {"lora_adapter_metadata": json.dumps(metadata)}
    return write(tensors, path, texts)


def diffusers_named(truth: Truth, path: Path) -> Path:
    return diffusers(truth, path, segment=".default", text_model="text_model.")


def diffusers_folded(truth: Truth, path: Path) -> Path:
    return diffusers(truth, path, folded=True)


def diffusers_alpha(truth: Truth, path: Path) -> Path:
    """PEFT's names with kohya's alpha beside them."""
    tensors = {}
    for part, raws in truth.items():
        for name, raw in raws.items():
            tensors |= {
                f"{part}.{name}.lora_A.weight": raw.down,
                f"{part}.{name}.lora_B.weight": raw.up,
                f"{part}.{name}.alpha": torch.tensor(raw.alpha),
            }
    return write(tensors, path)


def diffusers_old(truth: Truth, path: Path) -> Path:
    """Attention processors of their own, `lora_linear_layer` in the text encoder."""
    leaves = {".to_q": ".to_q_lora", ".to_k": ".to_k_lora", ".to_v": ".to_v_lora"}
    leaves[".to_out.0"] = ".to_out_lora"
    tensors = {}
    for part, raws in truth.items():
        for name, raw in raws.items():
            if part == "text_encoder":
                key = f"text_encoder.text_model.{name}.lora_linear_layer"
            else:
                key = f"unet.{name}.lora"
                for leaf, old in leaves.items():
                    if name.endswith(leaf):
                        key = f"unet.{name.removesuffix(leaf)}.processor{old}"
            tensors[f"{key}.down.weight"] = raw.down
            tensors[f"{key}.up.weight"] = raw.folded
    return write(tensors, path)


LAYOUTS: Mapping[str, Callable[[Truth, Path], Path]] = {
    "kohya": kohya,
    "kohya, odd shapes": kohya_odd,
    "kohya-dotted": kohya_dotted,
    "diffusers": diffusers,
    "diffusers, named": diffusers_named,
    "diffusers, folded": diffusers_folded,
    "diffusers, alpha": diffusers_alpha,
    "diffusers-old": diffusers_old,
}


def peft_folder(
    raws: Mapping[str, Raw],
    folder: Path,
    *,
    rslora: bool = False,
    config: Mapping[str, object] | None = None,
) -> Path:
    """One component as PEFT saves it."""
    tensors = {}
    for name, raw in raws.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = raw.down
        tensors[f"base_model.model.{name}.lora_B.weight"] = raw.up
    write(tensors, folder / "adapter_model.safetensors")
    settings = lora_config(raws) | {"use_rslora": rslora} | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def lora_config(raws: Mapping[str, Raw]) -> dict[str, object]:
    """PEFT settings: the first module's rank and alpha for all, the others by pattern."""
    first = next(iter(raws.values()))
    return {
        "peft_type": "LORA",
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": {f"^{n}": r.rank for n, r in raws.items() if r.rank != first.rank},
        "alpha_pattern": {f"^{n}": r.alpha for n, r in raws.items() if r.alpha != first.alpha},
        "target_modules": list(raws),
        "init_lora_weights": "gaussian",
    }


def write(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata=dict(metadata or {}))
    return path
