"""Where noise already looks like what belongs in a region: latents put in its place. A pure
function.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_TIE = 1e-6
"""Scores that differ by less, as a share, are equal: rounding may have parted them."""


def restarted(latents: Tensor, maps: Sequence[Tensor], places: Tensor) -> Tensor:
    """Begin every region with the noise that its concept likes best, wherever that was.

    Each region's mask slides over its concept's map; the noise under the place of the largest sum
    is copied into the region. Then the whole latents get the mean and deviation that they had.
    After the latent re-initialisation of LoRA-Composer (Yang et al. 2024, arXiv 2403.11627, section
    4.3, with n = 1). All is copied from the latents as they were, so two regions may get the same
    noise. Of equal places a region keeps its own, else takes the first; where regions overlap, the
    one with the larger mean score has its way. So the order of regions makes no difference.

    Args:
        latents: [images, C, H, W], not constant.
        maps: for each of K concepts [images, h, w] at any resolution, how much of it each place
            shows.
        places: [K, H, W] boolean, none empty.

    Returns:
        [images, C, H, W].
    """
    finest = latents.shape[-2:]
    fine = [functional.interpolate(m[:, None].double(), finest, mode="nearest") for m in maps]
    out = latents.clone()
    for image in range(latents.shape[0]):
        found = [_best(m[image, 0], place) for m, place in zip(fine, places, strict=True)]
        for (_, down, right), place in sorted(zip(found, places, strict=True), key=_score):
            moved = latents[image].roll((-down, -right), dims=(-2, -1))
            out[image] = torch.where(place, moved, out[image])
    return _alike(out, latents)


def _best(scores: Tensor, place: Tensor) -> tuple[float, int, int]:
    """How well, and how far down and right of a place [H, W], a map [H, W] suits it best."""
    rows, columns = place.any(dim=1).nonzero()[:, 0], place.any(dim=0).nonzero()[:, 0]
    top, left = int(rows[0]), int(columns[0])
    shape = place[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].to(scores)
    sums = functional.conv2d(scores[None, None], shape[None, None])[0, 0]
    near = sums >= sums.max() - _TIE * sums.max().abs()
    mean = float(sums.max() / shape.sum())
    if near[top, left]:
        return mean, 0, 0
    first = int(near.flatten().int().argmax())
    return mean, first // sums.shape[1] - top, first % sums.shape[1] - left


def _score(found: tuple[tuple[float, int, int], Tensor]) -> float:
    return found[0][0]


def _alike(latents: Tensor, before: Tensor) -> Tensor:
    """Latents with the mean and deviation of others, image by image."""
    axes, precise = (1, 2, 3), torch.promote_types(before.dtype, torch.float32)
    after, before = latents.to(precise), before.to(precise)
    plain = (after - after.mean(axes, keepdim=True)) / after.std(axes, keepdim=True)
    out = plain * before.std(axes, keepdim=True) + before.mean(axes, keepdim=True)
    return out.to(latents)
