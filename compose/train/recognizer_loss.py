"""What the recognizer is taught: where things are, what they are, which are the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compose.train.recognizer_data import IGNORE, Labels
from compose.world.recognizer import GRID, PICTURE_HEADS, THING_HEADS, Features, Recognizer

_SPREAD = 0.075  # standard deviation of a peak, share of the thing's height
_BLIND = 0.3  # around a half-there thing the heatmap is not taught, share of its height
_WARMTH = 0.1  # temperature of the contrastive loss
_WEIGHTS = {
    "heat": 1.0,
    "offset": 0.5,
    "size": 0.5,
    "identity": 0.3,
    "background": 0.3,
    "style": 0.3,
}


def peak_target(truth: Labels) -> tuple[Tensor, Tensor]:
    """The heatmap as it should be.

    Args:
        truth: boxes [N, S, 3], present and unsure [N, S].

    Returns:
        [N, 32, 32] in [0, 1], exactly 1 in the cell of each centre; and [N, 32, 32] bool, False
        where nothing is taught because half a thing is there.
    """
    device = truth.boxes.device
    line = torch.arange(GRID, device=device)
    cells = centre_cells(truth.boxes)  # [N, S, 2]
    across = (line - cells[..., :1]).square()  # [N, S, 32]
    down = (line - cells[..., 1:]).square()
    distance = down[..., :, None] + across[..., None, :]  # [N, S, 32, 32], squared cells
    height = truth.boxes[..., 2, None, None] * GRID
    bump = (-distance / (2 * (_SPREAD * height).clamp(min=0.7).square())).exp()
    target = (bump * truth.present[..., None, None]).amax(1)
    blind = ((distance < (_BLIND * height).square()) & truth.unsure[..., None, None]).any(1)
    return target, ~blind | (target > 0.5)


def centre_cells(boxes: Tensor) -> Tensor:
    """[N, S, 2] column and row of the heatmap cell that holds each centre."""
    return (boxes[..., :2] * GRID).floor().clamp(0, GRID - 1)


def losses(
    recognizer: Recognizer, features: Features, truth: Labels, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Every part of the loss.

    Args:
        recognizer: whose heads read the things.
        features: of the batch.
        truth: labels of the batch.
        generator: shakes the windows laid over things, as a found centre is never exact; None keeps
            them exact.

    Returns:
        Part -> scalar, unweighted.
    """
    target, taught = peak_target(truth)
    parts = {"heat": focal(features.heat, target, taught)}
    rows, slots = truth.present.nonzero(as_tuple=True)
    boxes, words = truth.boxes[rows, slots], truth.words[rows, slots]
    cells = centre_cells(truth.boxes)[rows, slots].long()  # [T, 2]
    offset = features.offset[rows, :, cells[:, 1], cells[:, 0]]
    size = features.size[rows, cells[:, 1], cells[:, 0]]
    count = max(1, len(rows))
    parts["offset"] = (offset - (boxes[:, :2] * GRID - cells)).abs().sum() / count
    parts["size"] = (size - boxes[:, 2].log()).abs().sum() / count
    seen = recognizer.describe(features, rows, _shaken(boxes, generator))
    for head, name in enumerate(THING_HEADS):
        parts[name] = _cross_entropy(seen[name], words[:, head])
    told = words[:, list(THING_HEADS).index("colour")] != IGNORE
    parts["identity"] = contrast(seen["embedding"][told], truth.identity[rows, slots][told])
    for head, name in enumerate(PICTURE_HEADS):
        parts[name] = _cross_entropy(features.picture[name], truth.picture[:, head])
    return parts


def total(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum."""
    return torch.stack([_WEIGHTS.get(name, 1.0) * part for name, part in parts.items()]).sum()


def focal(logits: Tensor, target: Tensor, taught: Tensor) -> Tensor:
    """Penalty-reduced focal loss of the heatmap (Zhou et al., 2019, eq. 1, with alpha 2 and beta
    4).

    Args:
        logits, target: [N, H, W].
        taught: [N, H, W] bool.

    Returns:
        Sum over cells by the number of centres.
    """
    chance = logits.sigmoid()
    centre = target >= 1 - 1e-6
    here = (1 - chance).square() * F.logsigmoid(logits)
    elsewhere = (1 - target).pow(4) * chance.square() * F.logsigmoid(-logits)
    return -(torch.where(centre, here, elsewhere) * taught).sum() / centre.sum().clamp(min=1)


def contrast(embedding: Tensor, identity: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, https://arxiv.org/abs/2004.11362, eq. 2).

    Args:
        embedding: [T, D] of unit length.
        identity: [T] equal for views of the same character.

    Returns:
        Scalar; 0 when no character is there twice.
    """
    likeness = embedding @ embedding.T / _WARMTH
    own = torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    likeness = likeness.masked_fill(own, -1e4)
    same = (identity[:, None] == identity[None]) & ~own
    chance = likeness - likeness.logsumexp(1, keepdim=True)
    pairs = same.sum(1)
    each = -(chance * same).sum(1) / pairs.clamp(min=1)
    return (each * (pairs > 0)).sum() / (pairs > 0).sum().clamp(min=1)


def _cross_entropy(logits: Tensor, words: Tensor) -> Tensor:
    """Mean over labelled rows, 0 (not NaN) when none is."""
    summed = F.cross_entropy(logits, words, ignore_index=IGNORE, reduction="sum")
    return summed / (words != IGNORE).sum().clamp(min=1)


def _shaken(boxes: Tensor, generator: torch.Generator | None) -> Tensor:
    """[T, 3] boxes a little off."""
    if generator is None:
        return boxes
    noise = torch.randn(boxes.shape, device=boxes.device, generator=generator)
    near = boxes[:, :2] + 0.05 * noise[:, :2] * boxes[:, 2:]
    return torch.cat([near, boxes[:, 2:] * (0.07 * noise[:, 2:]).exp()], 1)
