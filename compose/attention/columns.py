"""A few columns of a softmax over all keys, exactly, without the rest of it. Pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Kind = Literal["probabilities", "logits"]
_AT_ONCE = 2**24
"""Logits that are held at one time: 64 MB in float32."""


def columns(
    query: Tensor,
    key: Tensor,
    positions: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    kind: Kind = "probabilities",
    heads: bool = False,
    at_once: int = _AT_ONCE,
) -> Tensor:
    """Columns of ``softmax(scale * query key^T + mask)`` over all the keys that are given.

    Every row's sum of exponentials runs over all keys, but only the columns that were asked for are
    kept; queries are taken in chunks, so that the whole matrix never exists. Half precision is
    computed in float32. With gradients on, chunks are computed again on the way back.

    Args:
        query: [rows, heads, n_q, d].
        key: [rows, heads, n_k, d].
        positions: [rows, P] of the columns on the key axis, on query's device.
        scale: of the products.
        mask: additive or boolean (False: not attended to), to be broadcast to [rows, heads, n_q,
            n_k].
        kind: "probabilities", or the "logits" that the softmax gets.
        heads: whether heads stay apart; else their mean is taken.
        at_once: most logits that are held at one time.

    Returns:
        [rows, heads | 1, n_q, P].
    """
    query, key = _precise(query) * scale, _precise(key)
    rows, count, n_q, _ = query.shape
    n_k = key.shape[2]
    bias = None if mask is None else additive(mask, query.dtype)
    if bias is not None:
        bias = bias.expand(*bias.shape[:-2], n_q, n_k)
    index = positions[:, None, None, :]
    size = max(1, at_once // (rows * count * n_k))
    graph = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    parts = []
    for start in range(0, n_q, size):
        chunk = query[:, :, start : start + size]
        under = None if bias is None else bias[..., start : start + size, :]
        given = (chunk, key, index, under, kind, heads)
        parts.append(
            checkpoint(_chunk, *given, use_reentrant=False, preserve_rng_state=False)
            if graph
            else _chunk(*given)
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _chunk(
    query: Tensor, key: Tensor, index: Tensor, bias: Tensor | None, kind: Kind, heads: bool
) -> Tensor:
    logits = query @ key.transpose(-1, -2)  # [rows, heads, n_q, n_k]
    if bias is not None:
        logits = logits + bias
    found = logits.gather(-1, index.expand(*logits.shape[:3], -1))
    if kind == "probabilities":
        found = (found - logits.logsumexp(-1, keepdim=True)).exp()
    return found if heads else found.mean(dim=1, keepdim=True)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as logits: False, where it is boolean, becomes minus infinity."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)
    return mask.to(dtype)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
