"""What the families share whose denoiser is a UNet with cross-attention to CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from compose.errors import ModelError, RequestError
from compose.models.family import Family, Schedule
from compose.slot import TokenLayout
from compose.types import Conditioning, Kind, Site, Size, Step, Stream, TextOptions

_TEXT = re.compile(r"\.attn2\.(to_k|to_v)$")
_VECTOR = re.compile(
    r"(^|\.)(time_embedding|class_embedding|add_embedding|time_emb_proj|text_projection)(\.|$)"
)
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(?:(\w+?)s?\.)?")


class UNetFamily(Family):
    """A family over a UNet, CLIP text encoders and a VAE of 2-d latents."""

    denoiser_name: ClassVar[str] = "unet"

    def check_text_to_image(self) -> None:
        """Refuse an inpainting UNet and a UNet that takes the guidance scale as an input."""
        config = self.pipe.unet.config
        latent_channels = self.pipe.vae.config.latent_channels
        if config.in_channels != latent_channels:
            raise ModelError(
                f"the UNet takes {config.in_channels} channels and the VAE gives"
                f" {latent_channels}: an inpainting or other conditioned checkpoint; expected a"
                " text-to-image checkpoint"
            )
        if config.time_cond_proj_dim is not None:
            raise ModelError(
                "the UNet takes the guidance scale as an input (a consistency-distilled"
                " checkpoint), which is not supported; expected the UNet that it was distilled from"
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

    def site(self, component: str, path: str, module: nn.Module) -> Site:
        kind: Kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
        stream: Stream = "image"
        if _VECTOR.search(path):
            stream = "vector"
        elif component != self.denoiser_name or _TEXT.search(path):
            stream = "text"
        block, level = self._place(path)
        return Site(component, path, stream, kind, block, level if stream == "image" else 0)

    def _place(self, path: str) -> tuple[str, int]:
        """Block name and how often the grid was halved before the output of the module."""
        last = len(self.pipe.unet.config.block_out_channels) - 1
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

    def beyond_the_end(self, prompt: str) -> str:
        tokenizer = self._tokenizer
        ids = tokenizer(prompt, truncation=False)["input_ids"]
        if len(ids) <= tokenizer.model_max_length:
            return ""
        return str(tokenizer.decode(ids[tokenizer.model_max_length - 1 : -1])).strip()

    @property
    def _tokenizer(self) -> Any:
        """Of the first text encoder; those of a family cut a prompt into the same tokens."""
        first = next(name for name in self.text_names if name in self.components)
        return getattr(self.pipe, first.replace("text_encoder", "tokenizer"))

    def skipped_layers(self, options: TextOptions | None, usual: int) -> int | None:
        """`TextOptions.clip_skip` as diffusers counts: from the layer that the family reads.

        Args:
            options: of the run.
            usual: clip skip of that layer, counted as `TextOptions` does.

        Raises:
            RequestError: a text encoder has fewer layers.
        """
        if options is None or options.clip_skip is None:
            return None
        encoders = (getattr(self.pipe, n) for n in self.text_names if n in self.components)
        layers: int = min(encoder.config.num_hidden_layers for encoder in encoders)
        if options.clip_skip > layers:
            raise RequestError(
                f"clip_skip {options.clip_skip} was given, but a text encoder of this model has"
                f" {layers} layers; expected 1 (the last layer) to {layers}"
            )
        return options.clip_skip - usual

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
            latents,
            step.t,
            encoder_hidden_states=conditioning.embeds,
            added_cond_kwargs=self.added(latents, conditioning),
            return_dict=False,
        )
        prediction: Tensor = out[0]
        return prediction

    def added(self, latents: Tensor, conditioning: Conditioning) -> Mapping[str, Tensor] | None:
        """What the UNet is told beside the text, each [rows, ...]; None for nothing."""
        del latents, conditioning
        return None

    def decode(self, latents: Tensor) -> list[Image.Image]:
        vae = self.pipe.vae
        pixels = vae.decode(self.unscaled(latents.to(vae.dtype)), return_dict=False)[0]
        images: list[Image.Image] = self.pipe.image_processor.postprocess(
            pixels.detach(), output_type="pil"
        )
        return images

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents [rows, C, H, W] as the VAE's decoder wants them."""
        out: Tensor = latents / self.pipe.vae.config.scaling_factor
        return out
