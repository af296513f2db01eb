"""Files that have the header of a model and no values: the bytes behind it are a hole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]


def header_file(path: Path, shapes: Shapes, *, cut: int = 0) -> Path:
    """Write a safetensors file of fp16 zeros.

    Args:
        path: where.
        shapes: name of every tensor to its shape.
        cut: how many bytes are missing at its end.
    """
    entries, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + at - cut)
    return path


def inside(shapes: Shapes) -> Shapes:
    """A denoiser's names as a whole model has them."""
    return {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()}


def unet(width: int, *, pooled: bool = False, channels: int = 4) -> Shapes:
    """Some names of a UNet in its original layout, with cross-attention to text this wide."""
    block = "input_blocks.4.1" if pooled else "input_blocks.1.1"
    return {
        "input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{block}.transformer_blocks.0.attn2.to_k.weight": (320, width),
        "out.2.weight": (4, 320, 3, 3),
        **({"label_emb.0.0.weight": (1280, 2816)} if pooled else {}),
    }


def sd3(blocks: int, *, second: bool = False, channels: int = 16) -> Shapes:
    """Some names of an MM-DiT in its original layout."""
    return {
        "x_embedder.proj.weight": (64 * blocks, channels, 2, 2),
        "context_embedder.weight": (64 * blocks, 4096),
        "joint_blocks.0.x_block.attn.qkv.weight": (192 * blocks, 64 * blocks),
        f"joint_blocks.{blocks - 1}.x_block.attn.qkv.weight": (192 * blocks, 64 * blocks),
        **({"joint_blocks.0.x_block.attn2.qkv.weight": (8, 8)} if second else {}),
    }


def flux(*, guided: bool, channels: int = 64) -> Shapes:
    """Some names of FLUX.1 in its original layout."""
    return {
        "img_in.weight": (3072, channels),
        "double_blocks.0.img_mod.lin.weight": (18432, 3072),
        "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        **({"guidance_in.in_layer.weight": (3072, 256)} if guided else {}),
    }


VAE: Shapes = {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}
CLIP = "transformer.text_model.embeddings.position_embedding.weight"
T5 = {"text_encoders.t5xxl.transformer.shared.weight": (32128, 4096)}
TEXT: Mapping[str, Shapes] = {
    "sd15": {f"cond_stage_model.{CLIP}": (77, 768)},
    "sd2": {"cond_stage_model.model.token_embedding.weight": (49408, 1024)},
    "sdxl": {
        f"conditioner.embedders.0.{CLIP}": (77, 768),
        "conditioner.embedders.1.model.positional_embedding": (77, 1280),
    },
    "sd3": {
        f"text_encoders.clip_l.{CLIP}": (77, 768),
        f"text_encoders.clip_g.{CLIP}": (77, 1280),
    },
    "flux": {f"text_encoders.clip_l.{CLIP}": (77, 768), **T5},
}
WHOLE: Mapping[str, Shapes] = {
    "sd15": {**inside(unet(768)), **VAE, **TEXT["sd15"]},
    "sd2": {**inside(unet(1024)), **VAE, **TEXT["sd2"]},
    "sdxl": {**inside(unet(2048, pooled=True)), **VAE, **TEXT["sdxl"]},
    "sd3": {**inside(sd3(24)), **VAE, **TEXT["sd3"]},
    "flux": {**inside(flux(guided=True)), **VAE, **TEXT["flux"]},
}
"""Base to a file of the whole model."""
