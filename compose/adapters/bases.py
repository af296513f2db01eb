"""Which base model an adapter was made for, and which one is here: only to explain a mismatch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from compose.adapters.outline import Outline

LABELS: Mapping[str, str] = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX",
    "embedded": "the embedded model of lora-compose",
}

# What files write about their base, in small letters and digits only; the first found counts.
_WRITTEN: tuple[tuple[str, str], ...] = (
    ("loracomposeworld", "embedded"),
    ("flux", "flux"),
    ("stablediffusion3", "sd3"),
    ("stablediffusionv3", "sd3"),
    ("sd3", "sd3"),
    ("sdxl", "sdxl"),
    ("stablediffusionxl", "sdxl"),
    ("pony", "sdxl"),
    ("illustrious", "sdxl"),
    ("noobai", "sdxl"),
    ("stablediffusionv2", "sd2"),
    ("stablediffusion2", "sd2"),
    ("sdv2", "sd2"),
    ("sd2", "sd2"),
    ("stablediffusionv1", "sd15"),
    ("stablediffusion1", "sd15"),
    ("sdv1", "sd15"),
    ("sd1", "sd15"),
)

_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "flux"),
    (re.compile(r"joint_blocks|attn[._]add_[qkv]_proj"), "sd3"),
    (re.compile(r"^lora_te2[_.]|^text_encoder_2\.|add_embedding|label_emb"), "sdxl"),
)
_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_CROSS = re.compile(r"attn2[._](?:processor\.)?to_[kv](?:_lora)?$")


def canonical(text: str) -> str:
    """Short name of a base from what a file or a site calls it; empty when it is not known."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    return next((base for sign, base in _WRITTEN if sign in plain), "")


def label(base: str) -> str:
    """A base in words."""
    return LABELS.get(base, base)


def base_of_names(names: Iterable[str], width: int | None) -> str:
    """Short name of a base from module names and the width of its cross-attention, or nothing."""
    listed = tuple(names)
    for sign, base in _SIGNS:
        if any(sign.search(name) for name in listed):
            return base
    return _WIDTHS.get(width or 0, "")


def base_of_file(outline: Outline, stated: str = "") -> str:
    """Short name of the base of a file: what it states, else what its modules show, or nothing."""
    return canonical(stated) or base_of_names(outline.pairs, file_width(outline))


def file_width(outline: Outline) -> int | None:
    """Width of the text that the changed cross-attention layers read."""
    for pair in outline.pairs.values():
        if _CROSS.search(pair.stem):
            return pair.down_shape[1]
    return None


def in_words(base: str, width: int | None) -> str:
    """A base for a message, with the little that is known of an unknown one."""
    if base:
        return label(base)
    return f"a model with cross-attention {width} wide" if width else "an unknown model"


def model_base(modules: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    """In words, which base a model is, from the shapes [d_out, d_in, ...] of its modules."""
    names = [f"{component}.{path}" for component, paths in modules.items() for path in paths]
    shapes = (item for paths in modules.values() for item in paths.items())
    width = next((shape[1] for path, shape in shapes if _CROSS.search(path)), None)
    return in_words(base_of_names(names, width), width)
