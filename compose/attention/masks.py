"""From maps and drawn regions to masks. Pure functions.

Axes: [..., H, W] with any leading axes; K regions or tokens where an axis is named.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compose.slot import resample


def on_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid belong to a mask: those it covers by half or more.

    A mask that covers no cell by half keeps those that it covers most, so that no mask with
    anything in it gets lost on a coarse grid.

    Args:
        masks: [rows, K, H, W] in [0, 1], or boolean, at any resolution.
        grid: (h, w).

    Returns:
        [rows, K, h, w] boolean.
    """
    cover = resample(masks.float(), grid)
    most = cover.amax(dim=(-2, -1), keepdim=True)
    return (cover >= most.clamp(max=0.5)) & (most > 0)


def bounding(masks: Tensor) -> Tensor:
    """The smallest rectangle around what is set in each mask [..., H, W] boolean; none around
    nothing.
    """
    rows, columns = (_span(masks.any(dim=d)) for d in (-1, -2))
    return rows[..., :, None] & columns[..., None, :]


def above(maps: Tensor, share: float) -> Tensor:
    """Where maps [..., H, W] are above a share in [0, 1) of their own maximum: boolean."""
    return maps > share * maps.amax(dim=(-2, -1), keepdim=True)


def union(masks: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Masks of several tokens each.

    Args:
        masks: [rows, P, H, W] boolean.
        groups: for each of K results, which of the P masks it unites; none for an empty mask.

    Returns:
        [rows, K, H, W] boolean.
    """
    return torch.stack([masks[:, list(group)].any(dim=1) for group in groups], dim=1)


def partition(maps: Tensor) -> Tensor:
    """Which of K maps [rows, K, H, W] is the largest at each place: boolean, the first of equals.

    Every place belongs to exactly one.
    """
    winner = maps.argmax(dim=1, keepdim=True)
    return torch.zeros_like(maps, dtype=torch.bool).scatter(1, winner, True)


def dilate(masks: Tensor, side: int = 3) -> Tensor:
    """Grow masks [rows, K, H, W] by a square of odd side; the outside of the picture is empty."""
    return functional.max_pool2d(masks.float(), side, 1, side // 2).to(masks.dtype)


def erode(masks: Tensor, side: int = 3) -> Tensor:
    """Shrink masks [rows, K, H, W] by a square of odd side; the border of the picture stays."""
    return (-functional.max_pool2d(-masks.float(), side, 1, side // 2)).to(masks.dtype)


def opened(masks: Tensor, side: int = 3) -> Tensor:
    """Take away what is smaller than a square: shrunk, then grown."""
    return dilate(erode(masks, side), side)


def closed(masks: Tensor, side: int = 3) -> Tensor:
    """Fill gaps that are smaller than a square, also towards the border: grown, then shrunk."""
    return erode(dilate(masks, side), side)


def with_background(masks: Tensor, index: int = 0) -> Tensor:
    """Give places that no mask covers to one of the K masks [rows, K, H, W]."""
    filled = masks.clone()
    filled[:, index] = torch.where((masks != 0).any(dim=1), masks[:, index], 1)
    return filled


def _span(line: Tensor) -> Tensor:
    """From the first to the last that is set in each line [..., n] boolean."""
    begun, left = (x.cumsum(dim=-1) > 0 for x in (line, line.flip(-1)))
    return begun & left.flip(-1)
