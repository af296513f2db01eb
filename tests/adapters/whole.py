"""Random factors for whole models of every family."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tests.adapters import firsts, models
from tests.adapters.layouts import Raw, Truth
from tests.adapters.spelled import random_raws

Parts = Mapping[str, nn.Module]


def truth_of(parts: Parts, seed: int = 0) -> Truth:
    """Random factors for every module that adapters can change, under the model's own names."""
    truth = {}
    for number, (part, model) in enumerate(parts.items()):
        shapes = {
            path: tuple(module.weight.shape)
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }
        truth[part] = random_raws(shapes, seed + number)
    return truth


def sdxl() -> dict[str, nn.Module]:
    return {
        "unet": models.sdxl_unet(),
        "text_encoder": models.clip(16),
        "text_encoder_2": models.clip(12, projected=True),
    }


def sd3() -> dict[str, nn.Module]:
    return {
        "transformer": models.sd3(),
        "text_encoder": models.clip(16, projected=True),
        "text_encoder_2": models.clip(12, projected=True),
        "text_encoder_3": models.t5(),
    }


def flux() -> dict[str, nn.Module]:
    return {
        "transformer": models.flux(),
        "text_encoder": models.clip(),
        "text_encoder_2": models.t5(),
    }


def clip_raws(width: int) -> dict[str, Raw]:
    names = [f"self_attn.{n}_proj" for n in ("q", "k", "v", "out")]
    shapes: firsts.Shapes = {}
    for layer in (0, 1):
        start = f"encoder.layers.{layer}"
        shapes |= {f"{start}.{name}": (width, width) for name in names}
        shapes |= {f"{start}.mlp.fc1": (2 * width, width), f"{start}.mlp.fc2": (width, 2 * width)}
    return random_raws(shapes, width)
