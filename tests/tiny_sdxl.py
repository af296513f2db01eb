"""A Stable Diffusion XL pipeline of random weights for tests, and what adapters can change in it.

Nothing is downloaded; the same arguments give the same weights, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.tiny import SIDE, TEXT_WIDTH, clip_config, clip_tokenizer, ddim, settle, small_vae

TEXT_WIDTH_2 = 40
POOLED = 24
TIME_WIDTH = 4
"""Width of each of the six numbers that the UNet is told about the picture's size."""

ATTENTION = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k",
    "down_blocks.2.attentions.0.proj_in",  # linear, as in the SDXL base
    "mid_block.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "up_blocks.0.attentions.1.transformer_blocks.1.attn2.to_q",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
)
CONVOLUTIONS = (
    "conv_in",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.2.resnets.0.conv1",
    "up_blocks.1.upsamplers.0.conv",
    "up_blocks.2.resnets.1.conv_shortcut",
)
VECTORS = (
    "time_embedding.linear_1",
    "add_embedding.linear_1",
    "add_embedding.linear_2",
    "mid_block.resnets.0.time_emb_proj",
)
TEXT = (
    "encoder.layers.0.self_attn.q_proj",
    "encoder.layers.1.mlp.fc1",
)
TEXT_2 = (
    "text_model.encoder.layers.0.self_attn.v_proj",
    "text_model.encoder.layers.1.mlp.fc2",
    "text_model.encoder.layers.2.self_attn.out_proj",  # seen by the pooled output alone
)
EVERYWHERE: Mapping[str, Sequence[str]] = {
    "unet": ATTENTION + CONVOLUTIONS + VECTORS,
    "text_encoder": TEXT,
    "text_encoder_2": TEXT_2,
}


def _unet(cross: int, **changed: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": SIDE,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16, 24),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 6),
        "cross_attention_dim": cross,
        "norm_num_groups": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": 6 * TIME_WIDTH + POOLED,
    }
    return UNet2DConditionModel(**{**settings, **changed})


def tiny_sdxl(
    *, first: bool = True, force_zeros: bool = True, seed: int = 0, **unet: Any
) -> StableDiffusionXLPipeline:
    """A text-to-image pipeline of random weights, in fp32 on the CPU.

    Args:
        first: whether it has the first text encoder; the second is always there.
        force_zeros: whether no negative prompt means zeros.
        seed: of the weights. The global random state stays as it was.
        unet: changed entries of the UNet's config.
    """
    tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer(pad_token="!")
    config = clip_config(tokenizer, num_hidden_layers=3)
    config_2 = clip_config(
        tokenizer_2,
        num_hidden_layers=3,
        hidden_size=TEXT_WIDTH_2,
        hidden_act="gelu",
        projection_dim=POOLED,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {
            "text_encoder": CLIPTextModel(config),
            "text_encoder_2": CLIPTextModelWithProjection(config_2),
            "unet": _unet(TEXT_WIDTH * first + TEXT_WIDTH_2, **unet),
            "vae": small_vae(),
        }
        for model in models.values():
            settle(model)
    if not first:
        models["text_encoder"] = None
    pipe = StableDiffusionXLPipeline(
        **models,
        tokenizer=tokenizer if first else None,
        tokenizer_2=tokenizer_2,
        scheduler=ddim(),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sdxl_folder(folder: Path) -> Path:
    """Save `tiny_sdxl` as a diffusers folder."""
    tiny_sdxl().save_pretrained(folder)
    return folder
