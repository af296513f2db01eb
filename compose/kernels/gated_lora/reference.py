"""The truth that every faster form must match: plain PyTorch, accumulated in float32 or better,
differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compose.errors import ShapeError


def gated_lora(x: Tensor, down: Tensor, up: Tensor, gate: Tensor, index: Tensor) -> Tensor:
    """Low-rank products of several adapters, each rank weighted by its gate.

    Semantics:
        for row, token:
            t[r]   = sum_i x[row, token, i] * down[r, i]
            y[o]   = sum_r up[o, r] * gate[row, token, index[r]] * t[r]

    Args:
        x: [rows, n, d_in].
        down: [R, d_in], the first factors of all adapters laid end to end.
        up: [d_out, R], the second factors, alpha / rank folded in.
        gate: [rows | 1, n | 1, G]. G is the number of adapters, or R when every rank has its own
            gate.
        index: [R] integers in [0, G): which gate each rank follows.

    Returns:
        [rows, n, d_out] in x's dtype.

    Raises:
        ShapeError: the tensors do not fit together.
    """
    _check(x.shape[-1], down.shape[1], down.shape[0], up, gate, index)
    wide = torch.promote_types(x.dtype, torch.float32)
    t = x.to(wide) @ down.to(wide).T
    t = t * gate.to(wide)[..., index]
    return (t @ up.to(wide).T).to(x.dtype)


def gated_lora_conv2d(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    gate: Tensor,
    index: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
) -> Tensor:
    """The same for a convolution whose second factor is 1x1. The gate is read on the grid of the
    output.

    Args:
        x: [rows, c_in, H, W].
        down: [R, c_in, kh, kw], run with the stride, padding and dilation of the convolution it
            changes.
        up: [c_out, R].
        gate: [rows | 1, h * w | 1, G] over the h x w grid of the output.
        index: [R] integers in [0, G).
        stride, padding, dilation: of the convolution it changes.

    Returns:
        [rows, c_out, h, w] in x's dtype.

    Raises:
        ShapeError: the tensors do not fit together.
    """
    _check(x.shape[1], down.shape[1], down.shape[0], up, gate, index)
    wide = torch.promote_types(x.dtype, torch.float32)
    t = functional.conv2d(x.to(wide), down.to(wide), None, stride, padding, dilation)
    h, w = t.shape[-2:]
    g = gate.to(wide)[..., index].transpose(1, 2)  # [rows | 1, R, h * w | 1]
    if g.shape[2] not in (1, h * w):
        raise ShapeError(
            f"a gate over {g.shape[2]} places met an output of {h}x{w}; expected 1 or {h * w}"
        )
    t = t * g.reshape(*g.shape[:2], *((h, w) if g.shape[2] > 1 else (1, 1)))
    return functional.conv2d(t, up.to(wide)[:, :, None, None]).to(x.dtype)


def _check(d_in: int, down_in: int, total: int, up: Tensor, gate: Tensor, index: Tensor) -> None:
    if (
        d_in != down_in
        or up.ndim != 2
        or up.shape[1] != total
        or index.shape != (total,)
        or gate.ndim != 3
    ):
        raise ShapeError(
            f"gated_lora got x with {d_in} features, down [{total}, {down_in}, ...], up"
            f" {list(up.shape)},"
            f" gate {list(gate.shape)}, index {list(index.shape)}; expected down [R, d_in, ...],"
            " up [d_out, R],"
            " gate [rows, n, G], index [R]"
        )
