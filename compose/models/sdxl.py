"""Stable Diffusion XL: a UNet that reads two CLIP text encoders and is told the picture's size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from compose.errors import ModelError
from compose.models.unet import UNetFamily
from compose.text.encoding import side_by_side
from compose.types import Conditioning, TextOptions

_POOLED = "pooled"
_NUMBERS = 6  # height and width of the original and of the target, and the corner of the crop


class StableDiffusionXL(UNetFamily):
    """Stable Diffusion XL base and its fine-tunes.

    The UNet is told that original and target have the size of the picture and that nothing was
    cropped, which are the defaults of the stock pipeline. No watermark is put into pictures.

    An empty negative prompt is what the stock pipeline makes of no negative prompt: zeros, where
    the checkpoint asks for them (`force_zeros_for_empty_prompt`, as SDXL base does). A single space
    is the stock pipeline's `negative_prompt=""`: the encoded empty text.

    Clip skip applies to both text encoders, for prompts and negative prompts alike, as in ComfyUI;
    the stock pipeline leaves negative prompts at the usual layer.
    """

    name: ClassVar[str] = "sdxl"
    text_names: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    usual_guidance: ClassVar[float] = 5.0
    optional: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def check_text_to_image(self) -> None:
        """Refuse also the refiner, and text encoders that do not fit."""
        super().check_text_to_image()
        self._check_text_encoders()
        self._check_added()

    def _check_text_encoders(self) -> None:
        for encoder in self.text_names:
            tokenizer = encoder.replace("text_encoder", "tokenizer")
            here = [n for n in (encoder, tokenizer) if getattr(self.pipe, n) is not None]
            if len(here) == 1 or (not here and encoder == "text_encoder_2"):
                raise ModelError(
                    f"the checkpoint has {' and '.join(here) or 'neither'} of {encoder} and"
                    f" {tokenizer}; expected both (only the first text encoder of SDXL may be"
                    " missing), so use a complete checkpoint"
                )

    def _check_added(self) -> None:
        """Refuse a UNet that is told something else than texts and sizes.

        The sum is that of the pipeline's own `_get_add_time_ids`.
        """
        unet, pooled = self.pipe.unet, self.pipe.text_encoder_2.config.projection_dim
        if unet.config.addition_embed_type != "text_time":
            raise ModelError(
                f"the UNet has addition_embed_type {unet.config.addition_embed_type!r}; expected"
                " 'text_time' as in SDXL, so load the checkpoint with the pipeline it was made for"
            )
        width, wanted = unet.config.addition_time_embed_dim, unet.add_embedding.linear_1.in_features
        if wanted == pooled + (_NUMBERS - 1) * width:
            raise ModelError(
                "the UNet takes an aesthetic score in place of a target size: an image-to-image"
                " refiner; expected a text-to-image base, so use the base that it refines"
            )
        if wanted != pooled + _NUMBERS * width:
            raise ModelError(
                f"the UNet takes {wanted} numbers beside the text; expected"
                f" {pooled + _NUMBERS * width} for the pooled output {pooled} of text_encoder_2, so"
                " use the text encoder that the UNet was trained with"
            )

    def encode(self, prompts: Sequence[str], options: TextOptions | None = None) -> Conditioning:
        read = self.read(prompts, options, layer=2, normed=False)
        text = read[0] if len(read) == 1 else side_by_side(*read)
        return Conditioning(text.embeds, {_POOLED: read[-1].summary}, text.tokens)

    def unconditional(self, negatives: Sequence[str], encoded: Conditioning) -> Conditioning:
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return encoded
        empty = torch.tensor([not text for text in negatives], device=encoded.embeds.device)
        embeds = encoded.embeds.masked_fill(empty[:, None, None], 0)
        pooled = encoded.extra[_POOLED].masked_fill(empty[:, None], 0)
        return replace(encoded, embeds=embeds, extra={_POOLED: pooled})

    def added(self, latents: Tensor, conditioning: Conditioning) -> Mapping[str, Tensor]:
        pooled, factor = conditioning.extra[_POOLED], self.pipe.vae_scale_factor
        size = (latents.shape[-2] * factor, latents.shape[-1] * factor)
        numbers: Tensor = self.pipe._get_add_time_ids(
            size, (0, 0), size, conditioning.embeds.dtype, pooled.shape[-1]
        )
        return {
            "text_embeds": pooled,
            "time_ids": numbers.to(latents.device).expand(latents.shape[0], -1),
        }

    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self.pipe.vae
        upcast = vae.dtype == torch.float16 and vae.config.force_upcast
        with _in_fp32(vae) if upcast else nullcontext():
            return super().decode(latents)

    def unscaled(self, latents: Tensor) -> Tensor:
        config = self.pipe.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return super().unscaled(latents)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (mean, std))
        out: Tensor = latents * std / config.scaling_factor + mean
        return out


@contextmanager
def _in_fp32(vae: nn.Module) -> Iterator[None]:
    """An fp16 VAE in fp32, where its activations do not overflow; the way back is exact."""
    vae.float()
    try:
        yield
    finally:
        vae.half()
