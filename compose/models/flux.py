"""FLUX.1: a guidance-distilled transformer over text and image tokens, with CLIP and T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compose.errors import RequestError
from compose.models.dit import JointTransformer
from compose.text.encoding import encode_clip, encode_t5
from compose.text.windows import truncated
from compose.types import Conditioning, Step, TextOptions

_T5_TOKENS = 512
_T5_TOKENS_SCHNELL = 256


class Flux(JointTransformer):
    """FLUX.1 dev, which takes the guidance scale as an input, and schnell, which takes none.

    Latents are [rows, C, H, W] as everywhere; the squares of 2 x 2 that the transformer reads are
    packed on the way in and unpacked on the way out.
    """

    name: ClassVar[str] = "flux"
    text_names: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    usual_guidance: ClassVar[float] = 3.5
    blocks: ClassVar[Mapping[str, str]] = {
        "transformer_blocks": "double",
        "single_transformer_blocks": "single",
    }
    text_first: ClassVar[bool] = True

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input (dev) or was distilled away (schnell)."""
        takes: bool = self.pipe.transformer.config.guidance_embeds
        return takes

    @property
    def guidance(self) -> float:
        """Default guidance scale; 0 for a model that takes none."""
        return super().guidance if self.takes_guidance else 0.0

    @property
    def distilled(self) -> bool:
        return True

    @property
    def channels(self) -> int:
        packed: int = self.pipe.transformer.config.in_channels
        return packed // self.patch**2

    @property
    def patch(self) -> int:
        return 2

    @property
    def readers(self) -> list[tuple[Any, int]]:
        pipe = self.pipe
        return [(pipe.tokenizer, pipe.tokenizer_max_length), (pipe.tokenizer_2, self._t5_tokens)]

    @property
    def _t5_tokens(self) -> int:
        """Schnell was trained with fewer (diffusers, docs/source/en/api/pipelines/flux.md)."""
        return _T5_TOKENS if self.takes_guidance else _T5_TOKENS_SCHNELL

    def check_guidance(self, guidance: float | None, true_cfg: float | None) -> None:
        super().check_guidance(guidance, true_cfg)
        if guidance and not self.takes_guidance:
            raise RequestError(
                f"guidance {guidance:g} was given, but this model (FLUX schnell) takes no guidance"
                " scale; expected none, so leave it out or use --true-cfg"
            )

    def check_clip_skip(self, clip_skip: int | None) -> None:
        if clip_skip is not None:
            raise RequestError(
                f"clip_skip {clip_skip} was given, but FLUX reads no layer of CLIP, only its"
                " summary of the prompt; expected none, so leave it out"
            )

    def encode(self, prompts: Sequence[str], options: TextOptions | None = None) -> Conditioning:
        del options  # CLIP has one window and no layers to choose from
        pipe = self.pipe
        windows = truncated(prompts, pipe.tokenizer)
        clip = encode_clip(pipe.text_encoder, windows, self.device, layer=1, normed=True)
        windows = truncated(prompts, pipe.tokenizer_2, self._t5_tokens)
        text = encode_t5(pipe.text_encoder_2, windows, self.device)
        return Conditioning(text.embeds, {"pooled": clip.summary}, text.tokens)

    def predict(
        self,
        latents: Tensor,
        step: Step,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> Tensor:
        rows, text = conditioning.embeds.shape[:2]
        packed = functional.pixel_unshuffle(latents, self.patch)  # [rows, 4 C, h, w]
        height, width = packed.shape[-2:]
        out: Any = self.pipe.transformer(
            hidden_states=packed.flatten(2).transpose(1, 2).contiguous(),  # strides change rounding
            timestep=step.t.expand(rows).to(latents.dtype) / 1000,
            guidance=self._scale(guidance, rows),
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.extra["pooled"],
            txt_ids=torch.zeros(text, 3, device=latents.device),
            img_ids=_places(height, width, latents.device),
            return_dict=False,
        )
        prediction = out[0].transpose(1, 2).unflatten(2, (height, width))
        return functional.pixel_shuffle(prediction, self.patch)

    def _scale(self, guidance: float | None, rows: int) -> Tensor | None:
        """The guidance scale as the transformer takes it: [rows], or nothing."""
        if not self.takes_guidance:
            return None
        scale = self.guidance if guidance is None else guidance
        return torch.full((rows,), scale, device=self.device, dtype=torch.float32)

    def _sigmas(self, steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """Row and column of every image token: [height * width, 3], the first number always 0."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in (1, height, width)]
    return torch.cartesian_prod(*axes)
