"""Stable Diffusion 3 and 3.5: a joint-attention transformer, two CLIP encoders and perhaps T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diffusers import FlowMatchHeunDiscreteScheduler
from torch import Tensor

from compose.errors import RequestError
from compose.models.dit import JointTransformer
from compose.text.encoding import Encoded, encode_clip, encode_t5, end_to_end, side_by_side
from compose.text.windows import truncated
from compose.types import Conditioning, Size, Step, TextOptions

_T5_TOKENS = 256
_OWN_LAYER = 2
"""Which layer of CLIP is read, counted from the end."""


class StableDiffusion3(JointTransformer):
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024, https://arxiv.org/abs/2403.03206).

    The text is one sequence: 77 tokens in which both CLIP encoders lie side by side along the
    features, then 256 of T5, which are zeros in a model without it.
    """

    name: ClassVar[str] = "sd3"
    text_names: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    usual_guidance: ClassVar[float] = 7.0
    optional: ClassVar[tuple[str, ...]] = ("text_encoder_3",)
    blocks: ClassVar[Mapping[str, str]] = {"transformer_blocks": "joint"}
    text_first: ClassVar[bool] = False
    schedulers: ClassVar[Mapping[str, Any]] = {
        **JointTransformer.schedulers,
        "heun": FlowMatchHeunDiscreteScheduler,
    }

    @property
    def patch(self) -> int:
        patch: int = self.pipe.transformer.config.patch_size
        return patch

    @property
    def readers(self) -> list[tuple[Any, int]]:
        pipe = self.pipe
        clip = [(pipe.tokenizer, pipe.tokenizer_max_length)]
        return clip if pipe.text_encoder_3 is None else [*clip, (pipe.tokenizer_3, _T5_TOKENS)]

    def encode(self, prompts: Sequence[str], options: TextOptions | None = None) -> Conditioning:
        layer = _OWN_LAYER if options is None else options.clip_skip or _OWN_LAYER
        pipe = self.pipe
        both = [
            encode_clip(encoder, truncated(prompts, cut), self.device, layer=layer, normed=False)
            for encoder, cut in (
                (pipe.text_encoder, pipe.tokenizer),
                (pipe.text_encoder_2, pipe.tokenizer_2),
            )
        ]
        text = end_to_end(side_by_side(*both), self._t5(prompts, both[0].embeds))
        return Conditioning(text.embeds, {"pooled": text.summary}, text.tokens)

    def _t5(self, prompts: Sequence[str], like: Tensor) -> Encoded:
        """What T5 makes of prompts; zeros, which stand for no words, in a model without it."""
        if self.pipe.text_encoder_3 is None:
            width = self.pipe.transformer.config.joint_attention_dim
            return Encoded(like.new_zeros(len(prompts), _T5_TOKENS, width), ((),) * len(prompts))
        windows = truncated(prompts, self.pipe.tokenizer_3, _T5_TOKENS)
        return encode_t5(self.pipe.text_encoder_3, windows, self.device)

    def predict(
        self,
        latents: Tensor,
        step: Step,
        conditioning: Conditioning,
        guidance: float | None = None,
    ) -> Tensor:
        del guidance
        out: Any = self.pipe.transformer(
            hidden_states=latents,
            timestep=step.t.expand(latents.shape[0]),
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.extra["pooled"],
            return_dict=False,
        )
        prediction: Tensor = out[0]
        return prediction

    def set_timesteps(self, scheduler: Any, steps: int, size: Size) -> None:
        shifting = scheduler.config.get("use_dynamic_shifting")
        if shifting and isinstance(scheduler, FlowMatchHeunDiscreteScheduler):
            raise RequestError(
                "scheduler heun takes the same steps at every size, but this model shifts them by"
                " the size of the picture; expected euler"
            )
        super().set_timesteps(scheduler, steps, size)

    def check_size(self, size: Size) -> None:
        """Refuse sizes that are not in whole tokens, or beyond the position embeddings.

        Raises:
            RequestError: either.
        """
        super().check_size(size)
        most = self.pipe.transformer.config.pos_embed_max_size * self.multiple
        if max(size.width, size.height) > most:
            raise RequestError(
                f"size {size} is larger than the position embeddings of this model; expected at"
                f" most {most} pixels a side"
            )
