"""From captured columns to maps over the picture. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compose.attention.capture import LayerCapture
from compose.errors import ShapeError


def token_maps(layer: LayerCapture) -> Tensor:
    """Columns [images, heads, n, P] of a layer as maps [images, P, h, w], heads averaged."""
    values = layer.values.mean(dim=1).transpose(1, 2)  # [images, P, n]
    return values.reshape(*values.shape[:2], *layer.grid)


def averaged(layers: Sequence[LayerCapture], grid: tuple[int, int] | None = None) -> Tensor:
    """The mean of the maps of several layers, [images, P, H, W].

    Args:
        layers: with the same tokens.
        grid: (H, W) that all maps are brought to; None for the finest of theirs.
    """
    if grid is None:
        grid = max((layer.grid for layer in layers), key=lambda g: g[0] * g[1])
    maps = [resized(token_maps(layer), grid) for layer in layers]
    return torch.stack(maps).mean(dim=0)


def resized(maps: Tensor, grid: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Maps [rows, K, h, w] on another grid (H, W); on their own they stay as they are.

    Args:
        maps: floating point.
        grid: (H, W).
        mode: "bilinear", "nearest" or "area".
    """
    if tuple(maps.shape[-2:]) == grid:
        return maps
    corners = False if mode == "bilinear" else None
    return functional.interpolate(maps, grid, mode=mode, align_corners=corners)


def stretched(maps: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Every map [..., H, W] from its least value to its largest, brought to [0, 1).

    A constant map becomes zeros.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    high = maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low + epsilon)


def smoothed(maps: Tensor, sigma: float = 0.5) -> Tensor:
    """Maps [rows, K, H, W] under a Gaussian of 3 x 3, mirrored at the border.

    Raises:
        ShapeError: maps of a single row or column, which cannot be mirrored.
    """
    rows, count, h, w = maps.shape
    if min(h, w) < 2:
        raise ShapeError(f"maps of {h} x {w} were to be smoothed; expected at least 2 x 2")
    steps = torch.arange(-1, 2, dtype=maps.dtype, device=maps.device)
    line = torch.exp(-0.5 * (steps / sigma) ** 2)
    line = line / line.sum()
    padded = functional.pad(maps, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None]
    kernel = (line[:, None] * line[None, :])[None, None]
    return functional.conv2d(padded, kernel).view(rows, count, h, w)
