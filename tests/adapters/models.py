"""Denoisers and text encoders of every family: tiny ones, and FLUX.1 and others at full width.

Models at full width live on the meta device: they have modules and shapes, and no weights.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

TEXT = 20
POOLED = 12
ADDED = POOLED + 6 * 4

_SDXL: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}


def sdxl_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        **_SDXL,
        sample_size=8,
        block_out_channels=(8, 16, 32),
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=TEXT,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=ADDED,
        norm_num_groups=4,
    )


def full_sdxl_unet() -> UNet2DConditionModel:
    """stabilityai/stable-diffusion-xl-base-1.0."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            **_SDXL,
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


def sd1_unet(*, layers: int = 1, linear: bool = False, text: int = TEXT) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 24),
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=linear,
    )


def sd3(blocks: int = 3, dual: int = 1) -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=blocks,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        out_channels=16,
        pos_embed_max_size=8,
        dual_attention_layers=tuple(range(dual)),
        qk_norm="rms_norm",
    )


def flux(double: int = 2, single: int = 2) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


def wide_flux(double: int = 2, single: int = 2) -> FluxTransformer2DModel:
    """FLUX.1-dev with fewer blocks: diffusers' converters know no other width."""
    with torch.device("meta"):
        return FluxTransformer2DModel(
            num_layers=double, num_single_layers=single, guidance_embeds=True
        )


def clip(width: int = 16, projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=30,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=POOLED,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5() -> T5EncoderModel:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=30,
        d_model=TEXT,
        d_kv=5,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


FAMILIES = ("sd15", "sdxl", "sd3", "flux")


@functools.cache
def parts(family: str) -> Mapping[str, nn.Module]:
    """A denoiser and a text encoder of a family, tiny; shared, so not to be changed."""
    match family:
        case "sdxl":
            return {"unet": sdxl_unet(), "text_encoder_2": clip(12, projected=True)}
        case "sd3":
            return {"transformer": sd3(), "text_encoder_2": clip(12, projected=True)}
        case "flux":
            return {"transformer": flux(), "text_encoder_2": t5()}
    return {"unet": sd1_unet(), "text_encoder": clip()}
