"""Names of the first releases of models, told by the structure of the diffusers model at hand.

Files of kohya's trainers, of XLabs and of ComfyUI call modules as the model's first release did.
Nothing of such a name is guessed: the modules that are there are written out under their original
names, and the names of a file are looked up among these.
"""

from __future__ import annotations

from typing import Literal

from compose.adapters.originals import flux, mmdit, openclip, unet
from compose.adapters.originals.parts import Names, Part, Parts, Sizes, whole

__all__ = [
    "Architecture",
    "Names",
    "Original",
    "Part",
    "Parts",
    "Sizes",
    "architecture",
    "original_names",
    "original_of",
    "whole",
]

Architecture = Literal["unet", "mmdit", "flux", "clip"]
Original = Literal["sgm", "mmdit", "bfl"]


def architecture(sizes: Sizes) -> Architecture | None:
    """What a component is, by its modules; None for any other."""
    if unet.is_model(sizes):
        return "unet"
    if flux.is_model(sizes):
        return "flux"
    if mmdit.is_model(sizes):
        return "mmdit"
    return "clip" if openclip.is_model(sizes) else None


def original_names(sizes: Sizes) -> Names:
    """Original name of every module of a component that had one, to what it means."""
    match architecture(sizes):
        case "unet":
            return unet.original_names(sizes)
        case "flux":
            return flux.original_names(sizes)
        case "mmdit":
            return mmdit.original_names(sizes)
        case "clip":
            return openclip.original_names(sizes)
        case None:
            return {}


def original_of(path: str) -> Original | None:
    """Whose names a path inside a denoiser is written in, dotted or flat; None for diffusers'."""
    if flux.SIGN.match(path):
        return "bfl"
    if mmdit.SIGN.match(path):
        return "mmdit"
    return "sgm" if unet.SIGN.match(path) else None
