"""The transformer of Stable Diffusion 3 and 3.5 under the names of its first release.

Source: https://github.com/Stability-AI/sd3.5, mmditx.py; the correspondence is the one of
diffusers' `convert_sd3_transformer_checkpoint_to_diffusers`.
"""

from __future__ import annotations

import re

from compose.adapters.originals.parts import Names, Sizes, numbers, swapped, translate

SIGN = re.compile(r"joint_blocks[._]\d|(?:x_embedder[._]proj|[ty]_embedder[._]mlp)")

_OUTSIDE = {
    "x_embedder.proj": ("pos_embed.proj",),
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}
_BLOCK = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}


def is_model(sizes: Sizes) -> bool:
    """Whether a component is such a transformer: two streams in every block."""
    single = any(path.startswith("single_transformer_blocks.") for path in sizes)
    return not single and "transformer_blocks.0.attn.add_q_proj" in sizes


def original_names(sizes: Sizes) -> Names:
    """Original name of every module to its path, or to the paths that were one module."""
    names = translate(sizes, _OUTSIDE, "", "")
    if "norm_out.linear" in sizes:
        names["final_layer.adaLN_modulation.1"] = swapped(sizes, "norm_out.linear")
    for number in numbers(sizes, "transformer_blocks."):
        old, new = f"joint_blocks.{number}.", f"transformer_blocks.{number}."
        names |= translate(sizes, _BLOCK, old, new)
        last = f"{new}attn.to_add_out" not in sizes  # its text goes nowhere after the attention
        if last and f"{new}norm1_context.linear" in sizes:
            modulation = swapped(sizes, f"{new}norm1_context.linear")
            names[f"{old}context_block.adaLN_modulation.1"] = modulation
    return names
