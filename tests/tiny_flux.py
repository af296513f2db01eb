"""A FLUX pipeline of random weights for tests."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from tests.tiny import TEXT, TEXT_WIDTH, clip_config, clip_tokenizer, settle, small_vae
from tests.tiny_t5 import T5, T5_WIDTH, t5_encoder, t5_tokenizer

SITES = {
    "transformer": (
        "x_embedder",
        "context_embedder",
        "time_text_embed.timestep_embedder.linear_2",
        "time_text_embed.text_embedder.linear_1",
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.0.norm1_context.linear",
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.add_v_proj",
        "transformer_blocks.1.attn.to_out.0",
        "transformer_blocks.1.attn.to_add_out",
        "transformer_blocks.1.ff.net.0.proj",
        "transformer_blocks.1.ff_context.net.2",
        "single_transformer_blocks.0.norm.linear",
        "single_transformer_blocks.0.attn.to_k",
        "single_transformer_blocks.0.proj_mlp",
        "single_transformer_blocks.1.proj_out",
        "norm_out.linear",
        "proj_out",
    ),
    "text_encoder": TEXT,
    "text_encoder_2": T5,
}
"""Modules that test adapters change: of every stream, and of every text encoder."""


def tiny_flux(*, schnell: bool = False, seed: int = 0) -> FluxPipeline:
    """A text-to-image pipeline of random weights, in fp32 on the CPU.

    Args:
        schnell: without a guidance embedding, and with steps that do not depend on the size.
        seed: of the weights. The global random state stays as it was.
    """
    clip, long = clip_tokenizer(), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {
            "text_encoder": CLIPTextModel(clip_config(clip)),
            "text_encoder_2": t5_encoder(long),
            "transformer": FluxTransformer2DModel(
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=T5_WIDTH,
                pooled_projection_dim=TEXT_WIDTH,
                guidance_embeds=not schnell,
                axes_dims_rope=(4, 6, 6),
            ),
            "vae": small_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        }
        for model in models.values():
            settle(model)
    shift = {"shift": 1.0} if schnell else {"shift": 3.0, "use_dynamic_shifting": True}
    pipe = FluxPipeline(
        **models,
        tokenizer=clip,
        tokenizer_2=long,
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
