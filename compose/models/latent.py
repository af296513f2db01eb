"""What all families share whose VAE decodes 2-d latents: pictures of noise in, pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from compose.errors import ModelError
from compose.models.family import Family
from compose.models.schedule import Schedule
from compose.types import Size


class LatentFamily(Family):
    """A family over a VAE of 2-d latents. What is here is as most pipelines of diffusers do it."""

    @property
    def channels(self) -> int:
        """Channels of the latents that the denoiser takes."""
        channels: int = self._config.in_channels
        return channels

    def check_text_to_image(self) -> None:
        """Refuse a denoiser that takes more channels than the VAE gives.

        Raises:
            ModelError: an inpainting or other conditioned checkpoint.
        """
        given = self.pipe.vae.config.latent_channels
        if self.channels != given:
            raise ModelError(
                f"the {self.denoiser_name} takes {self.channels} channels and the VAE gives"
                f" {given}: an inpainting or other conditioned checkpoint; expected a text-to-image"
                " checkpoint"
            )

    @property
    def default_size(self) -> Size:
        side = self._config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return Size(width * self.pipe.vae_scale_factor, height * self.pipe.vae_scale_factor)

    def latents(
        self, size: Size, schedule: Schedule, generators: Sequence[torch.Generator]
    ) -> Tensor:
        # flow matching begins at the noise itself, and its schedulers do not say so
        deviation = getattr(schedule.scheduler, "init_noise_sigma", 1.0)
        return self.noise((self.channels, *self.grid(size)), generators) * deviation

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

    @property
    def _config(self) -> Any:
        """Settings of the denoiser."""
        denoiser: Any = self.denoiser
        return denoiser.config
