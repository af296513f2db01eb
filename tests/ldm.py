"""The tiny Stable Diffusion 1.x of `tests.tiny` as one file in the original layout.

The names are those of CompVis' latent-diffusion, `ldm/modules/diffusionmodules/openaimodel.py` and
`model.py`: the inverse of what diffusers' `loaders/single_file_utils.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

_PER_BLOCK = 1  # resnets of a block on the way down; one more on the way up
_LEVELS = 3  # of the UNet
_VAE_LEVELS = 2

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_state(pipe: StableDiffusionPipeline) -> dict[str, Tensor]:
    """All weights of a tiny pipeline under their original names."""
    unet = {_unet_name(n): t for n, t in pipe.unet.state_dict().items()}
    vae = {_vae_name(n): t for n, t in pipe.vae.state_dict().items()}
    text = pipe.text_encoder.state_dict()
    bare = {n.removeprefix("text_model."): t for n, t in text.items()}
    return {
        **{f"model.diffusion_model.{n}": t for n, t in unet.items()},
        **{f"first_stage_model.{n}": _as_convolution(n, t) for n, t in vae.items()},
        **{f"cond_stage_model.transformer.text_model.{n}": t for n, t in bare.items()},
    }


def original_file(
    pipe: StableDiffusionPipeline, path: Path, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write `original_state` to a file, as trainers and hubs of single checkpoints do."""
    state = {n: t.to(dtype).contiguous() for n, t in original_state(pipe).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


def _unet_name(name: str) -> str:
    for ours, original in _TOP.items():
        if name.startswith(ours + "."):
            return name.replace(ours, original, 1)
    down = re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)", name)
    if down:
        block, part, layer, rest = int(down[1]), down[2], int(down[3]), down[4]
        first = 1 + block * (_PER_BLOCK + 1)
        if part == "downsamplers":
            return f"input_blocks.{first + _PER_BLOCK}.0.{rest.replace('conv', 'op')}"
        where = f"input_blocks.{first + layer}"
        return f"{where}.1.{rest}" if part == "attentions" else f"{where}.0.{_renamed(rest)}"
    mid = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if mid:
        if mid[1] == "attentions":
            return f"middle_block.1.{mid[3]}"
        return f"middle_block.{2 * int(mid[2])}.{_renamed(mid[3])}"
    up = re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.+)", name)
    assert up, name
    block, part, layer, rest = int(up[1]), up[2], int(up[3]), up[4]
    first = block * (_PER_BLOCK + 1)
    if part == "upsamplers":  # after the attention where the block has any: all but the first
        return f"output_blocks.{first + _PER_BLOCK}.{2 if block else 1}.{rest}"
    where = f"output_blocks.{first + layer}"
    return f"{where}.1.{rest}" if part == "attentions" else f"{where}.0.{_renamed(rest)}"


def _renamed(rest: str, names: Mapping[str, str] = _RESNET) -> str:
    head, _, tail = rest.partition(".")
    return f"{names[head]}.{tail}"


def _vae_name(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    name = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", name)
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    last = _VAE_LEVELS - 1
    name = re.sub(
        r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{last - int(found[1])}.block.", name
    )
    return re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0",
        lambda found: f"up.{last - int(found[1])}.upsample",
        name,
    )


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    """The VAE's attention was written as 1x1 convolutions."""
    return tensor[:, :, None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
