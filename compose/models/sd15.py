"""Stable Diffusion 1.x: a UNet with cross-attention to one CLIP text encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from compose.errors import ModelError
from compose.models.family import Family, Schedule
from compose.slot import TokenLayout
from compose.types import Conditioning, Kind, Site, Size, Step, Stream, TextOptions

_TEXT = re.compile(r"\.attn2\.(to_k|to_v)$")
_VECTOR = re.compile(r"(^|\.)(time_embedding|class_embedding|add_embedding|time_emb_proj)(\.|$)")
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(?:(\w+?)s?\.)?")


class StableDiffusion15(Family):
    """Stable Diffusion 1.x and every pipeline of the same parts, such as the embedded model."""

    name: ClassVar[str] = "sd15"
    denoiser_name: ClassVar[str] = "unet"
    text_names: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def check_text_to_image(self) -> None:
        """Refuse an inpainting UNet and a UNet that takes the guidance scale as an input."""
        config = self.pipe.unet.config
        latent_channels = self.pipe.vae.config.latent_channels
        if config.in_channels != latent_channels:
            raise ModelError(
                f"the UNet takes {config.in_channels} channels and the VAE gives"
                f" {latent_channels}: an inpainting or"
                " other conditioned checkpoint; expected a text-to-image checkpoint"
            )
        if config.time_cond_proj_dim is not None:
            raise ModelError(
                "the UNet takes the guidance scale as an input (a consistency-distilled"
                " checkpoint), which is not"
                " supported; expected an ordinary Stable Diffusion 1.x UNet"
            )

    @property
    def default_size(self) -> Size:
        side = self.pipe.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return Size(width * self.pipe.vae_scale_factor, height * self.pipe.vae_scale_factor)

    @property
    def multiple(self) -> int:
        factor: int = self.pipe.vae_scale_factor
        return max(factor, 8)

    @property
    def _depth(self) -> int:
        return len(self.pipe.unet.config.block_out_channels)

    def site(self, component: str, path: str, module: nn.Module) -> Site:
        kind: Kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
        if component != self.denoiser_name:
            return Site(component, path, "text", kind)
        stream: Stream = "image"
        if _TEXT.search(path):
            stream = "text"
        elif _VECTOR.search(path):
            stream = "vector"
        block, level = self._place(path)
        return Site(component, path, stream, kind, block, level if stream == "image" else 0)

    def _place(self, path: str) -> tuple[str, int]:
        """Block name and how often the grid was halved before the output of the module."""
        last = self._depth - 1
        if path.startswith("mid_block."):
            return "mid", last
        found = _BLOCK.match(path)
        if found is None:
            return "", 0
        side, number, part = found[1], int(found[2]), found[3]
        if side == "down":
            return f"down.{number}", number + (part == "downsampler")
        return f"up.{number}", last - number - (part == "upsampler")

    def layout(self, latents: Tensor) -> TokenLayout:
        return TokenLayout(latents.shape[-2], latents.shape[-1])

    def encode(self, prompts: Sequence[str], options: TextOptions | None = None) -> Conditioning:
        skip = None if options is None or options.clip_skip is None else options.clip_skip - 1
        embeds, _ = self.pipe.encode_prompt(list(prompts), self.device, 1, False, clip_skip=skip)
        return Conditioning(embeds)

    def beyond_the_end(self, prompt: str) -> str:
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(prompt, truncation=False)["input_ids"]
        if len(ids) <= tokenizer.model_max_length:
            return ""
        return str(tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1])).strip()

    def latents(
        self, size: Size, schedule: Schedule, generators: Sequence[torch.Generator]
    ) -> Tensor:
        factor = self.pipe.vae_scale_factor
        shape = (self.pipe.unet.config.in_channels, size.height // factor, size.width // factor)
        noise: Tensor = self.noise(shape, generators) * schedule.scheduler.init_noise_sigma
        return noise

    def predict(
        self,
        latents: Tensor,
        step: Step,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> Tensor:
        del guidance
        out: Any = self.pipe.unet(
            latents, step.t, encoder_hidden_states=conditioning.embeds, return_dict=False
        )
        prediction: Tensor = out[0]
        return prediction

    def decode(self, latents: Tensor) -> list[Image.Image]:
        pixels = self.pipe.vae.decode(
            latents / self.pipe.vae.config.scaling_factor, return_dict=False
        )[0]
        images: list[Image.Image] = self.pipe.image_processor.postprocess(
            pixels.detach(), output_type="pil", do_denormalize=[True] * pixels.shape[0]
        )
        return images
