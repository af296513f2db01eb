"""Areas and averages on grids: what one-dimensional sums become in two."""

from __future__ import annotations

import torch
from torch import Tensor


def edges(cells: int) -> Tensor:
    """0 to `cells`, [cells + 1] float64."""
    return torch.arange(cells + 1, dtype=torch.float64)


def overlap(edges: Tensor, start: Tensor | float, stop: Tensor | float) -> Tensor:
    """How much of each interval between edges [n + 1] lies from `start` to `stop`, [..., n]."""
    low, high = edges[:-1].clamp(min=start), edges[1:].clamp(max=stop)
    return (high - low).clamp(min=0)


def means(cells: int, pixels: int) -> Tensor:
    """Share of each pixel in the mean over each cell, [cells, pixels]; rows add up to one."""
    ends = edges(cells) * pixels / cells
    found = overlap(edges(pixels), ends[:-1, None], ends[1:, None])
    return found / found.sum(dim=1, keepdim=True)


def blur(cells: int, sigma: float) -> Tensor:
    """Weights of a Gaussian around each cell, [cells, cells]; rows add up to one."""
    at = edges(cells)[:-1]
    found = torch.exp(-0.5 * ((at - at[:, None]) / sigma) ** 2)
    return found / found.sum(dim=1, keepdim=True)
