"""What the families share whose denoiser is a UNet with cross-attention to CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from compose.errors import ModelError
from compose.models.latent import LatentFamily
from compose.slot import TokenLayout
from compose.text.encoding import Encoded, encode_clip
from compose.text.windows import windowed, windows_needed
from compose.types import AttentionSite, Conditioning, Kind, Role, Site, Step, Stream, TextOptions

_TEXT = re.compile(r"\.attn2\.(to_k|to_v)$")
_ROLES: Mapping[str, Role] = {"to_k": "key", "to_v": "value"}
_VECTOR = re.compile(
    r"(^|\.)(time_embedding|class_embedding|add_embedding|time_emb_proj|text_projection)(\.|$)"
)
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(?:(\w+?)s?\.)?")


class UNetFamily(LatentFamily):
    """A family over a UNet, CLIP text encoders and a VAE of 2-d latents."""

    denoiser_name: ClassVar[str] = "unet"

    def check_text_to_image(self) -> None:
        """Refuse also a UNet that takes the guidance scale as an input."""
        super().check_text_to_image()
        if self.pipe.unet.config.time_cond_proj_dim is not None:
            raise ModelError(
                "the UNet takes the guidance scale as an input (a consistency-distilled"
                " checkpoint), which is not supported; expected the UNet that it was distilled from"
            )

    @property
    def multiple(self) -> int:
        factor: int = self.pipe.vae_scale_factor
        return max(factor, 8)

    def site(self, component: str, path: str, module: nn.Module) -> Site:
        kind: Kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
        stream: Stream = "image"
        crossing = _TEXT.search(path)
        if _VECTOR.search(path):
            stream = "vector"
        elif component != self.denoiser_name or crossing:
            stream = "text"
        block, level = self._place(path)
        role = _ROLES[crossing[1]] if crossing else ""
        return Site(component, path, stream, kind, block, level if stream == "image" else 0, role)

    def attention_site(self, path: str, module: nn.Module) -> AttentionSite | None:
        block, level = self._place(path)
        if not block:
            return None
        crossing: Any = module
        return AttentionSite(path, "text" if crossing.is_cross_attention else "image", block, level)

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
        del prompt  # as many windows as it needs
        return ""

    def windows(self, prompts: Sequence[str]) -> int:
        return max(windows_needed(prompts, tokenizer) for tokenizer, _ in self.readers)

    @property
    def readers(self) -> list[tuple[Any, Any]]:
        """Tokenizer and text encoder, of every text encoder that is there."""
        names = [name for name in self.text_names if name in self.components]
        return [
            (
                getattr(self.pipe, name.replace("text_encoder", "tokenizer")),
                getattr(self.pipe, name),
            )
            for name in names
        ]

    def read(
        self, prompts: Sequence[str], options: TextOptions | None, *, layer: int, normed: bool
    ) -> list[Encoded]:
        """What every text encoder makes of prompts.

        Args:
            prompts: one row each.
            options: of the run.
            layer: that is read unless the options say otherwise, counted from the end.
            normed: as for `encode_clip`.
        """
        options = options or TextOptions(windows=self.windows(prompts))
        return [
            encode_clip(
                encoder,
                windowed(prompts, tokenizer, options.windows),
                self.device,
                layer=options.clip_skip or layer,
                normed=normed,
            )
            for tokenizer, encoder in self.readers
        ]

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
