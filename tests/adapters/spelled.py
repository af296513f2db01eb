"""Random factors under given names, spelled as trainers spell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tests.adapters.firsts import Shapes
from tests.adapters.layouts import Raw, write

Raws = Mapping[str, Raw]


def random_raws(shapes: Shapes, seed: int = 0) -> dict[str, Raw]:
    """Factors of unequal ranks and alphas for every module of a first release."""
    generator = torch.Generator().manual_seed(seed)
    raws = {}
    for number, (name, shape) in enumerate(shapes.items()):
        rank = 1 + number % 3
        down = torch.randn(rank, *shape[1:], generator=generator)
        up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), generator=generator)
        raws[name] = Raw(down, up, (0.5, 1.0, 3.0, 8.0)[number % 4])
    return raws


def kohya(raws: Raws, path: Path, start: str = "lora_unet_") -> Path:
    return spelled(raws, path, lambda name: start + name.replace(".", "_"), "lora_down lora_up")


def dotted(raws: Raws, path: Path, start: str = "diffusion_model.") -> Path:
    return spelled(raws, path, lambda name: start + name, "lora_A lora_B")


def comfy(raws: Raws, path: Path) -> Path:
    return spelled(raws, path, lambda name: f"diffusion_model.{name}", "lora_down lora_up")


def peft(raws: Raws, path: Path) -> Path:
    return dotted(raws, path, "base_model.model.")


def bare(raws: Raws, path: Path) -> Path:
    return dotted(raws, path, "")


def spelled(raws: Raws, path: Path, spell: Callable[[str], str], pair: str) -> Path:
    down, up = pair.split()
    tensors = {}
    for name, raw in raws.items():
        stem = spell(name)
        tensors |= {
            f"{stem}.{down}.weight": raw.down,
            f"{stem}.{up}.weight": raw.up,
            f"{stem}.alpha": torch.tensor(raw.alpha),
        }
    return write(tensors, path)


SPELLINGS = {"kohya": kohya, "diffusers": dotted, "kohya-dotted": comfy, "peft": peft, "bare": bare}
