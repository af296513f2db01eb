"""The transformer of FLUX.1 under the names of its first release (BFL), and XLabs' for its parts.

Source: https://github.com/black-forest-labs/flux, src/flux/model.py; the correspondence is the one
of diffusers' `convert_flux_transformer_checkpoint_to_diffusers`. XLabs changes the attention of a
block from outside: its first LoRA is for the image, its second for the text, and in single blocks
it leaves the part of the fused layer alone that is no attention
(https://github.com/XLabs-AI/x-flux, src/flux/modules/layers.py).
"""

from __future__ import annotations

import re

from compose.adapters.originals.parts import Names, Sizes, numbers, swapped, translate

SIGN = re.compile(r"(?:double|single)_blocks[._]\d|(?:img|txt)_in|(?:time|vector|guidance)_in[._]")

TEXT_ENCODERS = {"text_encoder_3": "text_encoder_2"}
"""T5 is the third text encoder to kohya, as in Stable Diffusion 3, and the second in diffusers."""

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_OUTSIDE = {
    "img_in": ("x_embedder",),
    "img_in.proj": ("x_embedder",),  # OneTrainer
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": _QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": _ADDED,
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "qkv_lora1": _QKV,
    "proj_lora1": ("attn.to_out.0",),
    "qkv_lora2": _ADDED,
    "proj_lora2": ("attn.to_add_out",),
}
_SINGLE = {
    "linear1": (*_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "qkv_lora": _QKV,
    "proj_lora": ("proj_out",),
}


def is_model(sizes: Sizes) -> bool:
    """Whether a component is such a transformer."""
    return any(path.startswith("single_transformer_blocks.") for path in sizes)


def original_names(sizes: Sizes) -> Names:
    """Original name of every module to its path, or to the paths that were one module."""
    names = translate(sizes, _OUTSIDE, "", "")
    if "norm_out.linear" in sizes:
        names["final_layer.adaLN_modulation.1"] = swapped(sizes, "norm_out.linear")
    for number in numbers(sizes, "transformer_blocks."):
        new = f"transformer_blocks.{number}."
        names |= translate(sizes, _DOUBLE, f"double_blocks.{number}.", new)
    for number in numbers(sizes, "single_transformer_blocks."):
        new = f"single_transformer_blocks.{number}."
        names |= translate(sizes, _SINGLE, f"single_blocks.{number}.", new)
    return names
