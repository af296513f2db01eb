"""Regions on the grid of the latents, and what is made of several of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from compose.errors import RequestError
from compose.regions.area import blur
from compose.regions.shapes import Grid, Mask, Region
from compose.slot import with_peak

ASPECT = 0.02
"""How far width over height of a mask may be from the picture's, as a share."""


def drawn(regions: Sequence[Region | None], grid: Grid) -> Tensor:
    """Regions on the grid of the latents.

    Args:
        regions: [K]; None for an adapter that acts everywhere.
        grid: (H, W).

    Returns:
        [K, H, W] in [0, 1], every one with at least one cell at its full strength.

    Raises:
        RequestError: a mask of another aspect than the grid.
    """
    masks = torch.ones(len(regions), *grid)
    for mask, region in zip(masks, regions, strict=True):
        if region is not None:
            mask.copy_(_drawn(region, grid))
    return masks


def _drawn(region: Region, grid: Grid) -> Tensor:
    if isinstance(region, Mask):
        wanted = region.height * grid[1] / grid[0]
        if abs(region.width - wanted) > max(1, ASPECT * wanted):
            raise RequestError(
                f"{region} was given for a picture whose width is {grid[1] / grid[0]:.3g} times its"
                f" height; expected the same of the mask, such as {round(wanted)}x{region.height},"
                " so draw it on a picture of that size"
            )
    cover = with_peak(region.on(grid), torch.tensor(region.peak, dtype=torch.float64))
    return cover.clamp(0, 1).float()


def feathered(masks: Tensor, width: float) -> Tensor:
    """Soft edges: masks [K, H, W] under a Gaussian, in a tensor of their own.

    Args:
        masks: what is beyond the border counts for nothing, so a full mask stays full.
        width: its standard deviation, as a share of the shorter side.
    """
    sigma = width * min(masks.shape[-2:])
    if sigma == 0:
        return masks.clone()
    rows, columns = (blur(n, sigma) for n in masks.shape[-2:])
    return (rows @ masks.double() @ columns.T).clamp(0, 1).float()


def _average(masks: Tensor) -> Tensor:
    return masks / masks.sum(dim=0).clamp(min=1)


def _first(masks: Tensor) -> Tensor:
    left = torch.cumprod(1 - masks, dim=0)
    return masks * torch.cat([torch.ones_like(masks[:1]), left[:-1]])


def _partition(masks: Tensor) -> Tensor:
    winner = masks.argmax(dim=0, keepdim=True)
    return torch.zeros_like(masks).scatter(0, winner, masks.gather(0, winner))


OVERLAPS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "average": _average,
        "sum": lambda masks: masks,
        "first": _first,
        "partition": _partition,
    }
)


def shared(masks: Tensor, overlap: str) -> Tensor:
    """What regions [K, H, W] come to where they overlap.

    Args:
        masks: in [0, 1].
        overlap: "average": in proportion, so that they never add up to more than one; "sum": each
            as if it were alone; "first": what the ones before it have left; "partition": the
            strongest takes all, the first of equals.
    """
    return OVERLAPS[overlap](masks)
