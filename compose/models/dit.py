"""What Stable Diffusion 3 and FLUX share: a transformer over text and image tokens, trained by flow
matching.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from compose.errors import ModelError
from compose.models.latent import LatentFamily
from compose.slot import TokenLayout
from compose.text.windows import beyond
from compose.types import AttentionSite, Kind, Site, Size, Stream

_VECTOR = re.compile(r"(^|\.)norm\w*\.linear$|^time_text_embed\.")  # before blocks: norms are there
_TEXT = re.compile(r"^context_embedder$|\.(add_[qkv]_proj|to_add_out)$|\.ff_context\.")
_JOINT = re.compile(r"^single_transformer_blocks\.")
_BLOCK = re.compile(r"^(\w*transformer_blocks)\.(\d+)\.")


class JointTransformer(LatentFamily):
    """A family whose denoiser lets text and image tokens attend to each other.

    Attributes:
        blocks: name of a list of blocks in the transformer to how its blocks are called, which
            gives "joint.5".
        text_first: order of a sequence that joins text and image.
    """

    denoiser_name: ClassVar[str] = "transformer"
    half: ClassVar[torch.dtype] = torch.bfloat16
    schedulers: ClassVar[Mapping[str, Any]] = {"euler": FlowMatchEulerDiscreteScheduler}
    blocks: ClassVar[Mapping[str, str]]
    text_first: ClassVar[bool]

    def check_text_to_image(self) -> None:
        """Refuse also a foreign scheduler."""
        super().check_text_to_image()
        if type(self.pipe.scheduler) not in self.schedulers.values():
            raise ModelError(
                f"the model comes with a {type(self.pipe.scheduler).__name__}; expected a"
                f" {' or '.join(s.__name__ for s in self.schedulers.values())}: put one into its"
                " scheduler folder"
            )

    @property
    @abstractmethod
    def patch(self) -> int:
        """Side of the square of latents that makes one image token."""

    @property
    @abstractmethod
    def readers(self) -> Iterable[tuple[Any, int]]:
        """Tokenizers of the text encoders, and how many tokens their encoder reads."""

    @property
    def default_size(self) -> Size:
        side = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        return Size(side, side)

    @property
    def multiple(self) -> int:
        factor: int = self.pipe.vae_scale_factor
        return factor * self.patch

    def site(self, component: str, path: str, module: nn.Module) -> Site:
        kind: Kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
        if component != self.denoiser_name:
            pooled = path == "text_projection"
            return Site(component, path, "vector" if pooled else "text", kind)
        found = _BLOCK.match(path)
        block = "" if found is None else f"{self.blocks[found[1]]}.{found[2]}"
        return Site(component, path, _stream(path), kind, block)

    def attention_site(self, path: str, module: nn.Module) -> AttentionSite | None:
        site = self.site(self.denoiser_name, path, module)
        if not site.block:
            return None
        joint = site.stream == "joint" or getattr(module, "added_kv_proj_dim", None) is not None
        return AttentionSite(path, "joint" if joint else "image", site.block)

    def layout(self, latents: Tensor) -> TokenLayout:
        height, width = latents.shape[-2:]
        return TokenLayout(height // self.patch, width // self.patch, self.text_first)

    def beyond_the_end(self, prompt: str) -> str:
        return min((beyond(prompt, reader, most) for reader, most in self.readers), key=len)

    def set_timesteps(self, scheduler: Any, steps: int, size: Size) -> None:
        """Lay the steps out; a scheduler with dynamic shifting spends more of them at high noise
        the larger the picture is.
        """
        config, extra = scheduler.config, self._sigmas(steps)
        if config.get("use_dynamic_shifting"):
            extra["mu"] = calculate_shift(
                (size.height // self.multiple) * (size.width // self.multiple),
                config.base_image_seq_len,
                config.max_image_seq_len,
                config.base_shift,
                config.max_shift,
            )
        scheduler.set_timesteps(steps, device=self.device, **extra)

    def _sigmas(self, steps: int) -> dict[str, Any]:
        """Noise levels before any shift, as an argument; nothing for the scheduler's own."""
        del steps
        return {}

    def unscaled(self, latents: Tensor) -> Tensor:
        shift: float = self.pipe.vae.config.shift_factor
        return super().unscaled(latents) + shift


def _stream(path: str) -> Stream:
    """What a module of the transformer sees."""
    if _VECTOR.search(path):
        return "vector"
    if _TEXT.search(path):
        return "text"
    return "joint" if _JOINT.match(path) else "image"
