"""Where the second ink of a primitive lies: share in [0, 1] per pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compose.world.drawing.pen import Fill


def second_share(fill: Tensor, u: Tensor, v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Share of the second ink, antialiased over one pixel.

    Args:
        fill: values of `Fill`, [g, 1, 1].
        u, v: place along and across the fill's direction, in pixels from its origin, [g, h, w].
        p, q: length in pixels and ratio, [g, 1, 1].

    Returns:
        Share of the second ink, [g, h, w].
    """
    cell_u, cell_v = u / p, v / p
    stripes = _soft((q / 2 - (cell_u - cell_u.round()).abs()) * p)
    split = _soft(u)
    checker = _soft(torch.cos(math.pi * cell_u) * torch.cos(math.pi * cell_v) * p * (1.3 / math.pi))
    first = _to_grid(cell_u, cell_v)
    other = _to_grid(cell_u + 0.5, cell_v + 0.5)
    spots = _soft((q - torch.minimum(first, other).sqrt()) * p)
    patch = _soft((1 - torch.hypot(cell_u, cell_v / q.clamp_min(1e-3))) * p)
    share = torch.zeros_like(u)
    for kind, value in (
        (Fill.GRADIENT, fade_share(u, p)),
        (Fill.STRIPES, stripes),
        (Fill.SPLIT, split),
        (Fill.CHECKER, checker),
        (Fill.SPOTS, spots),
        (Fill.PATCH, patch),
    ):
        share = torch.where(fill == int(kind), value, share)
    return share


def fade_share(u: Tensor, p: Tensor) -> Tensor:
    """Share of the second ink of a gradient at `u` along it, over a length of 2 p."""
    return (u / (2 * p) + 0.5).clamp_(0, 1)


def _soft(inside: Tensor) -> Tensor:
    return (inside + 0.5).clamp_(0, 1)


def _to_grid(u: Tensor, v: Tensor) -> Tensor:
    du, dv = u - u.round(), v - v.round()
    return du * du + dv * dv
