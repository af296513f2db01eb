"""Attention written out, as processors that diffusers models take: the oracle of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor


class Explicit:
    """Computes softmax attention step by step and keeps everything.

    Attributes:
        logits, probabilities: [rows, heads, n_q, n_k] of the latest call.
        outputs: [rows, heads, n_q, d] of the latest call.
        bias: added to the logits of every call.
    """

    def __init__(self) -> None:
        self.logits = self.probabilities = self.outputs = torch.empty(0)
        self.bias: Tensor | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """`mask` [rows, 1, n_k] is what the denoiser itself adds to the logits."""
        self.logits = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
        if mask is not None:
            self.logits = self.logits + mask[:, None]
        if self.bias is not None:
            self.logits = self.logits + self.bias.to(self.logits)
        self.probabilities = self.logits.softmax(-1)
        self.outputs = torch.einsum("bhqk,bhkd->bhqd", self.probabilities, value)
        return self.outputs.transpose(1, 2).flatten(2)


def heads(x: Tensor, attn: Any) -> Tensor:
    """[rows, n, heads * d] to [rows, heads, n, d]."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


class ExplicitUNet(Explicit):
    """Self-attention and cross-attention, as a UNet has them."""

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = heads(attn.to_q(hidden_states), attn)
        key, value = heads(attn.to_k(context), attn), heads(attn.to_v(context), attn)
        return attn.to_out[0](self.attend(query, key, value, attention_mask))


class ExplicitSD3(Explicit):
    """Joint attention of Stable Diffusion 3: image before text."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_: Any) -> Any:
        names, text = ("to_q", "to_k", "to_v"), encoder_hidden_states
        parts = [heads(getattr(attn, name)(hidden_states), attn) for name in names]
        norms = (attn.norm_q, attn.norm_k, None)
        parts = [p if n is None else n(p) for p, n in zip(parts, norms, strict=True)]
        if text is not None:
            added = ("add_q_proj", "add_k_proj", "add_v_proj")
            others = [heads(getattr(attn, name)(text), attn) for name in added]
            norms = (attn.norm_added_q, attn.norm_added_k, None)
            others = [p if n is None else n(p) for p, n in zip(others, norms, strict=True)]
            parts = [torch.cat(both, dim=2) for both in zip(parts, others, strict=True)]
        out = self.attend(*parts)
        image, rest = out[:, : hidden_states.shape[1]], out[:, hidden_states.shape[1] :]
        image = attn.to_out[0](image)
        if text is None:
            return image
        return image, rest if attn.context_pre_only else attn.to_add_out(rest)


class ExplicitFlux(Explicit):
    """Joint attention of FLUX: text before image, queries and keys rotated."""

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        image_rotary_emb=None,
    ) -> Any:
        assert attention_mask is None
        text = encoder_hidden_states
        query, key, value = (
            heads(getattr(attn, name)(hidden_states), attn) for name in ("to_q", "to_k", "to_v")
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if text is not None:
            q, k, v = (
                heads(getattr(attn, n)(text), attn)
                for n in ("add_q_proj", "add_k_proj", "add_v_proj")
            )
            query = torch.cat([attn.norm_added_q(q), query], dim=2)
            key, value = torch.cat([attn.norm_added_k(k), key], dim=2), torch.cat([v, value], dim=2)
        query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=2) for x in (query, key))
        out = self.attend(query, key, value)
        if text is None:
            return out
        n = text.shape[1]
        return attn.to_out[0](out[:, n:]), attn.to_add_out(out[:, :n])


KINDS: dict[str, type[Explicit]] = {
    "sd15": ExplicitUNet,
    "sdxl": ExplicitUNet,
    "sd3": ExplicitSD3,
    "flux": ExplicitFlux,
}


@contextmanager
def explicit(name: str, layers) -> Iterator[dict]:
    """Every attention layer of a family under an explicit processor; site to processor."""
    before = {site: module.processor for site, module in layers.items()}
    found = {site: KINDS[name]() for site in layers}
    for site, module in layers.items():
        module.processor = found[site]
    try:
        yield found
    finally:
        for site, module in layers.items():
            module.processor = before[site]
