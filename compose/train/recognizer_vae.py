"""Pictures as a VAE gives them back: a little softer, as generated pictures are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compose.errors import ModelError

_BATCH = 256
_LATENT_NOISE = (
    0.12  # largest noise on a latent by its spread; a denoiser's own error is of that order
)


class Coder:
    """Sends pictures through a trained `AutoencoderKL`.

    Args:
        folder: of the VAE, or of a pipeline that holds one in ``vae``.
        device: where it works.

    Raises:
        ModelError: when there is no VAE in the folder.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        folder = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"no VAE in {folder}, expected a diffusers folder with config.json; "
                "train the VAE first"
            )
        self.device = device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.vae.requires_grad_(False)

    @torch.inference_mode()
    def round_trip(
        self, images: Tensor, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode and decode.

        Args:
            images: [N, 3, 128, 128] in [0, 1].
            noise: largest disturbance of a picture's latents, by their spread; each picture draws
                its own.
            generator: of the disturbance.

        Returns:
            The same shape, on the VAE's device.
        """
        images = images.to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.device.type == "cuda"):
            latents = self.vae.encode(images * 2 - 1).latent_dist.mean
            if noise:
                each = (
                    torch.rand(len(images), 1, 1, 1, device=self.device, generator=generator)
                    * noise
                )
                grain = torch.randn(latents.shape, device=self.device, generator=generator)
                latents = latents + each * latents.std() * grain
            decoded: Tensor = self.vae.decode(latents).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def soften(self, pictures: Tensor, seed: int) -> None:
        """Replace pictures by what the VAE makes of them, in place.

        Args:
            pictures: [N, 3, 128, 128] uint8.
            seed: of the disturbances.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        for start in range(0, len(pictures), _BATCH):
            part = pictures[start : start + _BATCH]
            softened = self.round_trip(part.float() / 255, _LATENT_NOISE, generator)
            part.copy_((softened * 255).round_())
