"""Signed distances of the primitives' shapes, in pixels: negative inside.

Formulas after the public articles on two-dimensional distance functions (Quilez); the ellipse is a
first-order approximation, exact on its outline.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compose.world.drawing.pen import Kind


def distance(kind: int, x: Tensor, y: Tensor, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """Distance to one kind of shape.

    Args:
        kind: a value of `Kind`.
        x, y: place in the shape's own frame, y down, [g, h, w].
        a, b, s: the shape's measures, [g, 1, 1].

    Returns:
        Distance before rounding, [g, h, w].
    """
    if kind == Kind.ELLIPSE:
        return _ellipse(x, y, a, b)
    if kind == Kind.TAPER:
        return _taper(x, y, a, b, s)
    if kind == Kind.STAR:
        return _star(x, y, a, s)
    if kind == Kind.HEART:
        return _heart(x, y, a)
    if kind == Kind.ARC:
        return _arc(x, y, a, b)
    return torch.maximum(torch.hypot(x, y) - a, b - torch.hypot(x, y - s))


def _ellipse(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    u, v = x / a, y / b
    radius = torch.hypot(u, v)
    slope = torch.hypot(u / a, v / b).clamp_min_(1e-6)
    return radius * (radius - 1) / slope


def _taper(x: Tensor, y: Tensor, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
    x = x.abs()
    cap_x = x - torch.minimum(x, torch.where(y < 0, s, a))
    cap_y = y.abs() - b
    run, rise = a - s, 2 * b
    along = (((a - x) * run + (b - y) * rise) / (run * run + rise * rise).clamp_min(1e-6)).clamp_(
        0, 1
    )
    side_x = x - a + run * along
    side_y = y - b + rise * along
    apart = torch.minimum(cap_x * cap_x + cap_y * cap_y, side_x * side_x + side_y * side_y).sqrt_()
    return torch.where((side_x < 0) & (cap_y < 0), -apart, apart)


def _star(x: Tensor, y: Tensor, a: Tensor, s: Tensor) -> Tensor:
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    x, y = x.abs(), -y
    fold = 2 * (cos * x - sin * y).clamp_min(0)  # mirror at the first axis
    x, y = x - fold * cos, y + fold * sin
    fold = 2 * (-cos * x - sin * y).clamp_min(0)  # and at the second
    x, y = (x + fold * cos).abs(), y + fold * sin - a
    ba_x, ba_y = s * sin, s * cos - a
    along = ((x * ba_x + y * ba_y) / (ba_x * ba_x + ba_y * ba_y)).clamp_(0)
    along = torch.minimum(along, torch.ones_like(along))
    side = y * ba_x - x * ba_y
    return torch.hypot(x - ba_x * along, y - ba_y * along) * torch.sign(side)


def _heart(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    scale = a / 0.604
    x, y = x.abs() / scale, 0.55 - y / scale
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    along = 0.5 * (x + y).clamp_min(0)
    tip = torch.minimum(
        x * x + (y - 1) * (y - 1), (x - along) ** 2 + (y - along) ** 2
    ).sqrt() * torch.sign(x - y)
    return torch.where(x + y > 1, lobe, tip) * scale


def _arc(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    reach = b / a
    sin, cos = torch.sin(reach), torch.cos(reach)
    x = x.abs()
    end = torch.hypot(x - sin * a, y - cos * a)
    return torch.where(cos * x > sin * y, end, (torch.hypot(x, y) - a).abs())
