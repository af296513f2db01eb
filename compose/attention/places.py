"""Changes of keys and values that every query sees by a gate of its own, exactly.

An adapter changes the key of text token j by ``B a_j``, where ``a_j = A x_j`` has one number a
rank. Image token i is to see that at a strength g_i. For keys and for values,

    q_i . (k_j + g_i B a_j) = [q_i | g_i (q_i B)] . [k_j | a_j]
    sum_j p_ij (v_j + g_i B a_j) = sum_j p_ij v_j + g_i B sum_j p_ij a_j

so softmax attention over as many further features as there are ranks does it, in whatever kernel
computes it. The trick with the values is that of LRAgent's Flash-LoRA-Attention
(https://github.com/hjeon2k/LRAgent), which does not gate; for keys it needs them as they were
projected, neither normalised nor rotated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from compose.attention.intercept import AttentionCall
from compose.errors import CaptureError
from compose.slot import Change

_MULTIPLE = 8
"""Features come in multiples of this, as fused kernels want them in half precision."""


@dataclass(frozen=True)
class Places:
    """What image tokens see of the text by where they are, in one attention layer.

    Attributes:
        path: of the layer, for errors.
        key, value: what its projections hold back; None for nothing.
        gate: [rows, n_q, K] of the queries.

    Raises:
        CaptureError: from `widened`, keys or values that are no longer what was projected.
    """

    path: str
    key: Change | None
    value: Change | None
    gate: Tensor

    def widened(self, call: AttentionCall) -> AttentionCall:
        """The call with the further features; `narrowed` takes them out of its output again."""
        self._check("keys", call.key, self.key)
        self._check("values", call.value, self.value)
        query, key, value = call.query, call.key, call.value
        ranks = max(c.low.shape[-1] for c in (self.key, self.value) if c is not None)
        width = -(-(max(key.shape[-1], value.shape[-1]) + ranks) // _MULTIPLE) * _MULTIPLE
        if self.key is not None:
            seen = torch.einsum("bhnd,hdr->bhnr", _wide(query), self._up(self.key, key))
            query = torch.cat([query, (seen * self._by_rank(self.key)).to(query.dtype)], dim=-1)
            key = _beside(key, self.key)
        if self.value is not None:
            value = _beside(value, self.value)
        query, key, value = (pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
        given = {"query": query, "key": key, "value": value, "scale": call.scale}
        return AttentionCall(call.number, (), {**call.given, **given})

    def narrowed(self, output: Tensor, call: AttentionCall) -> Tensor:
        """From what the widened call gave to what the layer's own `call` is to give.

        Args:
            output: [rows, heads, n_q, width].
            call: as it was before.

        Returns:
            [rows, heads, n_q, d].
        """
        d = call.value.shape[-1]
        own = output[..., :d]
        if self.value is None:
            return own
        low = _wide(output[..., d : d + self.value.low.shape[-1]]) * self._by_rank(self.value)
        change = torch.einsum("bhnr,hdr->bhnd", low, self._up(self.value, call.value))
        return (own + change).to(own.dtype)

    def _by_rank(self, change: Change) -> Tensor:
        """[rows, 1, n_q, R], the gate of every rank."""
        return self.gate[..., change.owner][:, None]

    def _up(self, change: Change, like: Tensor) -> Tensor:
        """[heads, d, R], the second factor of every head of `like` [rows, heads, n, d]."""
        return _wide(change.up).reshape(like.shape[1], like.shape[3], -1)

    def _check(self, what: str, given: Tensor, change: Change | None) -> None:
        if change is not None and _storage(given) != _storage(change.output):
            raise CaptureError(
                f"adapters were to act at {self.path} by the place of the query, but its {what} are"
                " changed between projection and softmax, perhaps by a norm or a rotation; expected"
                " them as they were projected, so choose another way in text, such as least"
            )


def _beside(x: Tensor, change: Change) -> Tensor:
    """[rows, heads, n, d + R], what is held back beside what is there."""
    low = change.low.to(x.dtype)[:, None].expand(-1, x.shape[1], -1, -1)
    return torch.cat([x, low], dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
