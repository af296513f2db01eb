"""Stable Diffusion 1.x: a UNet with cross-attention to one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compose.models.unet import UNetFamily
from compose.types import Conditioning, TextOptions


class StableDiffusion15(UNetFamily):
    """Stable Diffusion 1.x and every pipeline of the same parts, such as the embedded model.

    Clip skip applies to prompts and negative prompts alike, as in A1111 and ComfyUI; the stock
    pipeline leaves negative prompts at the last layer.
    """

    name: ClassVar[str] = "sd15"
    text_names: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def encode(self, prompts: Sequence[str], options: TextOptions | None = None) -> Conditioning:
        (text,) = self.read(prompts, options, layer=1, normed=True)
        return Conditioning(text.embeds, tokens=text.tokens)
