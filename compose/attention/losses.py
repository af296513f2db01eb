"""How well attention keeps to boxes: losses on maps. Pure functions, differentiable in the maps.

After the constraints of LoRA-Composer (Yang et al. 2024, arXiv 2403.11627, section 4.2, and
`multi_lora_sample.py` of Young98CN/LoRA_Composer); weights of the losses stay with the caller.
Maps are probabilities; every result is one number for every image and map, 0 for a perfect one.

Axes: P maps, one box each; [h, w] the grid of the maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compose.attention.masks import bounding


def bell(boxes: Tensor, spread: float = 1.0) -> Tensor:
    """A Gaussian on each box, 1 at its middle and 0 outside, [P, h, w] float32.

    Args:
        boxes: [P, h, w] boolean; what is no rectangle counts as the one around it.
        spread: standard deviation, in halves of the box's height and width.
    """
    boxes = bounding(boxes)
    rows, columns = (_bell(boxes.any(dim=d), spread) for d in (-1, -2))
    found = rows[:, :, None] * columns[:, None, :]
    return found / found.amax((-2, -1), keepdim=True)


def missing(maps: Tensor, boxes: Tensor, *, top: float = 0.2, spread: float = 1.0) -> Tensor:
    """How far a map's strongest cells in its box, the middle counting most, are from 1.

    ``max(0, 1 - mean of the k largest of A * G)`` with k a share `top` of the box's cells (at least
    one) and G the `bell` on the box.

    Args:
        maps: [images, P, h, w] in [0, 1].
        boxes: [P, h, w] boolean, none empty.
        top: share in (0, 1].
        spread: as of `bell`.

    Returns:
        [images, P] in [0, 1].
    """
    weighted = maps * bell(boxes, spread).to(maps)
    means = [
        weighted[:, p].flatten(1).topk(_count(box, top)).values.mean(dim=1)
        for p, box in enumerate(bounding(boxes))
    ]
    return (1 - torch.stack(means, dim=1)).clamp(min=0)


def unfilled(maps: Tensor, boxes: Tensor) -> Tensor:
    """How far a map's peaks in every row and column of its box are from 1.

    The mean over all columns of the grid of ``|max over the column of A * M - whether the box has
    the column|``, and the same of rows, added up.

    Args:
        maps: [images, P, h, w] in [0, 1].
        boxes: [P, h, w] boolean; what is no rectangle counts as the one around it.

    Returns:
        [images, P] in [0, 2].
    """
    boxes = bounding(boxes)
    inside = maps * boxes.to(maps)
    apart = [(inside.amax(dim=d) - boxes.any(dim=d).to(maps)).abs().mean(dim=-1) for d in (-2, -1)]
    return apart[0] + apart[1]


def straying(attention: Tensor, boxes: Tensor, *, top: float = 0.2) -> Tensor:
    """How much the image tokens of a box attend to what is outside it, at the worst pairs.

    The mean of the k largest probabilities from tokens in the box to tokens outside, with k a share
    `top` of the box's cells (at least one); 0 for a box that leaves nothing out.

    Args:
        attention: [images, n, n] probabilities from queries to keys, n = h * w.
        boxes: [P, h, w] boolean, none empty; what is no rectangle counts as the one around it.
        top: share in (0, 1].

    Returns:
        [images, P] in [0, 1].
    """
    found = []
    for box in bounding(boxes):
        inside = box.flatten()
        pairs = attention[:, inside][:, :, ~inside].flatten(1)  # [images, pairs]
        count = min(_count(box, top), pairs.shape[1])
        worst = pairs.topk(count).values
        found.append(worst.mean(dim=1) if count else worst.sum(dim=1))
    return torch.stack(found, dim=1)


def _bell(line: Tensor, spread: float) -> Tensor:
    """A Gaussian on the cells of lines [P, n] boolean, which are neighbours."""
    at = torch.arange(line.shape[-1], device=line.device)
    length = line.sum(dim=-1, keepdim=True)
    first = line.int().argmax(dim=-1, keepdim=True)
    x = 2 * (at - first) / (length - 1).clamp(min=1) - 1  # -1 to 1 from end to end
    x = torch.where(length > 1, x, 0.0)
    return torch.exp(-0.5 * (x / spread) ** 2) * line


def _count(box: Tensor, top: float) -> int:
    """A share of the cells of a box, at least one."""
    return max(1, int(top * int(box.sum())))
