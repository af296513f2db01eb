"""Windows of text to embeddings: CLIP, T5, and what families make of several encoders.

Every call of an encoder has one row for every prompt, window after window, so that a gate with a
row for every prompt fits each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compose.errors import ModelError, RequestError
from compose.text.windows import Windows
from compose.types import Token

_Read = Callable[[Windows, int], tuple[Tensor, Tensor | None]]
"""The k-th window of every prompt to hidden states [rows, length, D] and pooled [rows, P]."""


@dataclass(frozen=True)
class Encoded:
    """What a text encoder makes of prompts.

    Attributes:
        embeds: [rows, T, D].
        tokens: for every row, which characters its positions on the T axis stand for.
        pooled: [rows, P] of the first window, where the encoder has such an output. Weights do not
            touch it.
    """

    embeds: Tensor
    tokens: tuple[tuple[Token, ...], ...]
    pooled: Tensor | None = None

    @property
    def summary(self) -> Tensor:
        """`pooled`, where the denoiser needs it.

        Raises:
            ModelError: the encoder has no such output.
        """
        if self.pooled is None:
            raise ModelError(
                "a text encoder gives no pooled output; expected a CLIP text model, so use the"
                " encoder that the denoiser was trained with"
            )
        return self.pooled


def encode_clip(
    model: Any, windows: Windows, device: torch.device, *, layer: int, normed: bool
) -> Encoded:
    """Read windows with a CLIP text model.

    Args:
        model: `CLIPTextModel` or `CLIPTextModelWithProjection` of transformers.
        windows: of its own tokenizer.
        device: where the result should be.
        layer: whose output is taken, counted from the end: 1 the last, 2 the one before.
        normed: whether the final layer norm is applied to it (Stable Diffusion 1.x), or not (SDXL,
            Stable Diffusion 3).

    Raises:
        RequestError: the model has fewer layers.
    """
    check_layer(model, layer)
    masked = getattr(model.config, "use_attention_mask", False)

    def read(windows: Windows, k: int) -> tuple[Tensor, Tensor | None]:
        mask = windows.mask(k).to(device) if masked else None
        out = model(windows.ids(k).to(device), attention_mask=mask, output_hidden_states=True)
        pooled = out.text_embeds if "text_embeds" in out else out.pooler_output
        if not normed:
            return out.hidden_states[-layer], pooled
        if layer == 1:
            return out.last_hidden_state, pooled
        norm = getattr(model, "text_model", model).final_layer_norm
        return norm(out.hidden_states[-layer]), pooled

    return _encode(windows, read, model.dtype, device)


def encode_t5(
    model: Any, windows: Windows, device: torch.device, *, masked: bool = False
) -> Encoded:
    """Read windows with a T5 encoder.

    Args:
        model: `T5EncoderModel` of transformers.
        windows: of its own tokenizer.
        device: where the result should be.
        masked: whether the encoder is told what is padding (PixArt), or reads it like text (Stable
            Diffusion 3, FLUX).
    """

    def read(windows: Windows, k: int) -> tuple[Tensor, Tensor | None]:
        mask = windows.mask(k).to(device) if masked else None
        return model(windows.ids(k).to(device), attention_mask=mask)[0], None

    return _encode(windows, read, model.dtype, device)


def check_layer(model: Any, layer: int) -> None:
    """Refuse a layer that a CLIP text model does not have.

    Raises:
        RequestError: `layer` is not from 1 to the number of its layers.
    """
    layers = model.config.num_hidden_layers
    if not 1 <= layer <= layers:
        raise RequestError(
            f"clip_skip {layer} was given for a text encoder of {layers} layers; expected 1 (the"
            f" last layer) to {layers}"
        )


def weigh(embeds: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """Move every position away from, or towards, what it is in an empty prompt.

    ``empty + weight * (embeds - empty)``: 1 leaves a position as it is, bit for bit, and 0 gives
    the position of the empty prompt. This is what ComfyUI does (``comfy/sd1_clip.py``,
    `ClipTokenWeightEncoder`).

    Args:
        embeds, empty: [rows, length, D].
        weights: [rows, length].

    Returns:
        [rows, length, D], computed in fp32 at least, in the dtype of `embeds`.
    """
    wide = torch.promote_types(embeds.dtype, torch.float32)
    share = weights.to(embeds.device, wide)[..., None]
    return torch.lerp(empty.to(wide), embeds.to(wide), share).to(embeds.dtype)


def side_by_side(first: Encoded, second: Encoded) -> Encoded:
    """Two encoders that share the T axis: features and pooled outputs one after another (SDXL).

    Positions that only one of the encoders has for some characters count for both.
    """
    both = zip(first.tokens, second.tokens, strict=True)
    pooled = [text.pooled for text in (first, second) if text.pooled is not None]
    return Encoded(
        torch.cat([first.embeds, second.embeds], dim=-1),
        tuple(tuple(sorted({*a, *b}, key=_place)) for a, b in both),
        torch.cat(pooled, dim=-1) if pooled else None,
    )


def end_to_end(first: Encoded, second: Encoded) -> Encoded:
    """Two encoders one after another on the T axis, the narrower one filled up with zeros (SD3).

    The pooled output is that of the first.
    """
    width = max(first.embeds.shape[-1], second.embeds.shape[-1])
    filled = [functional.pad(e, (0, width - e.shape[-1])) for e in (first.embeds, second.embeds)]
    shift = first.embeds.shape[1]
    tokens = tuple(
        (*a, *(Token(t.position + shift, t.start, t.end) for t in b))
        for a, b in zip(first.tokens, second.tokens, strict=True)
    )
    return Encoded(torch.cat(filled, dim=1), tokens, first.pooled)


def _place(token: Token) -> tuple[int, int, int]:
    return token.position, token.start, token.end


def _encode(windows: Windows, read: _Read, dtype: torch.dtype, device: torch.device) -> Encoded:
    """All windows, weighed, one after another."""
    parts: list[Tensor] = []
    pooled: Tensor | None = None
    empty: Tensor | None = None
    for k in range(windows.count):
        hidden, summary = read(windows, k)
        if k == 0 and summary is not None:
            pooled = summary.to(device, dtype)
        weights = windows.weights(k)
        if (weights != 1).any():
            empty = read(windows.without_text(), 0)[0] if empty is None else empty
            hidden = weigh(hidden, empty, weights)
        parts.append(hidden.to(device, dtype))
    return Encoded(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), windows.tokens, pooled)
