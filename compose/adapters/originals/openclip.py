"""A CLIP text encoder under the names of OpenCLIP, where SDXL's and SD3's second one comes from.

Source: https://github.com/mlfoundations/open_clip, src/open_clip/transformer.py; the correspondence
is the one of diffusers' `convert_open_clip_checkpoint`.
"""

from __future__ import annotations

from compose.adapters.originals.parts import Names, Sizes, numbers, translate

_LAYER = {
    "attn.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.out_proj": ("self_attn.out_proj",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}
_LEVELS = ("", "text_model.")  # of transformers' CLIP, which differ between its versions
_STARTS = ("", "model.")  # of OpenCLIP's, alone and inside a checkpoint of SDXL


def is_model(sizes: Sizes) -> bool:
    """Whether a component is a CLIP text encoder."""
    return any(f"{level}encoder.layers.0.self_attn.q_proj" in sizes for level in _LEVELS)


def original_names(sizes: Sizes) -> Names:
    """Original name of every module to its path, or to the paths that were one module."""
    names: Names = {}
    for level in _LEVELS:
        for number in numbers(sizes, f"{level}encoder.layers."):
            new = f"{level}encoder.layers.{number}."
            for start in _STARTS:
                names |= translate(sizes, _LAYER, f"{start}transformer.resblocks.{number}.", new)
    return names
