"""A Stable Diffusion 3 or 3.5 pipeline of random weights for tests."""

from __future__ import annotations

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tests.tiny import clip_config, clip_tokenizer, settle, small_vae
from tests.tiny_t5 import T5, T5_WIDTH, t5_encoder, t5_tokenizer

WIDTHS = (16, 12)
"""Of the two CLIP encoders; side by side they are narrower than T5, and get padded."""
LARGEST = 20
"""Largest grid of image tokens, on a side."""

SITES = {
    "transformer": (
        "pos_embed.proj",
        "context_embedder",
        "time_text_embed.timestep_embedder.linear_1",
        "time_text_embed.text_embedder.linear_2",
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.0.norm1_context.linear",
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.add_k_proj",
        "transformer_blocks.0.attn.to_add_out",
        "transformer_blocks.0.ff_context.net.0.proj",
        "transformer_blocks.1.attn.to_out.0",
        "transformer_blocks.1.attn.add_v_proj",
        "transformer_blocks.1.ff.net.2",
        "norm_out.linear",
        "proj_out",
    ),
    "text_encoder": (
        "text_model.encoder.layers.0.self_attn.q_proj",
        "text_model.encoder.layers.0.mlp.fc1",
    ),
    "text_encoder_2": ("text_model.encoder.layers.0.self_attn.v_proj", "text_projection"),
    "text_encoder_3": T5,
}
"""Modules that test adapters change: of every stream, and of every text encoder."""
DUAL = ("transformer_blocks.0.attn2.to_v", "transformer_blocks.0.attn2.to_out.0")
"""Further ones of Stable Diffusion 3.5 medium."""


def tiny_sd3(
    *, medium: bool = False, t5: bool = True, dynamic: bool = False, seed: int = 0
) -> StableDiffusion3Pipeline:
    """A text-to-image pipeline of random weights, in fp32 on the CPU.

    Args:
        medium: with normalised queries and keys and with dual attention, as 3.5 medium has them.
        t5: whether there is a T5 encoder.
        dynamic: whether steps are shifted by the size of the picture.
        seed: of the weights. The global random state stays as it was.
    """
    clip, long = clip_tokenizer(), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {
            "text_encoder": _clip(clip, WIDTHS[0]),
            "text_encoder_2": _clip(clip, WIDTHS[1]),
            "text_encoder_3": t5_encoder(long),
            "transformer": _transformer(medium),
            "vae": small_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        }
        for model in models.values():
            settle(model)
    pipe = StableDiffusion3Pipeline(
        **models | ({} if t5 else {"text_encoder_3": None}),
        tokenizer=clip,
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=long if t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    config = clip_config(tokenizer, hidden_size=width, projection_dim=width)
    return CLIPTextModelWithProjection(config)


def _transformer(medium: bool) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=sum(WIDTHS),
        pos_embed_max_size=LARGEST,
        qk_norm="rms_norm" if medium else None,
        dual_attention_layers=(0,) if medium else (),
    )
