"""Damage done to training pictures, so that the recognizer judges generated ones fairly.

A generated picture is softer and noisier than a render, stands a little elsewhere, and may hold
half a character grown into another. So pictures are shifted, blurred and disturbed, and some are
two
renders cut together: there only things that are still whole count as things.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from compose.train.recognizer_data import IGNORE, Labels
from compose.world.recognizer import SIZE


@dataclass(frozen=True)
class Damage:
    """How far training pictures are taken from clean renders.

    Attributes:
        shift: largest shift, fraction of the picture.
        zoom: largest change of size, natural logarithm.
        blur: share of pictures that are softened.
        noise: largest standard deviation of added noise, in [0, 1] pixel units.
        light: largest change of brightness and contrast; colours keep their hue.
        chimeras: share of pictures cut together from two.
    """

    shift: float = 0.05
    zoom: float = 0.08
    blur: float = 0.35
    noise: float = 0.05
    light: float = 0.08
    chimeras: float = 0.08


def damage(
    images: Tensor, truth: Labels, how: Damage, generator: torch.Generator
) -> tuple[Tensor, Labels]:
    """Augment a batch.

    Args:
        images: [N, 3, 128, 128] in [0, 1].
        truth: labels with 3 places a picture.
        how: strengths.
        generator: on the images' device.

    Returns:
        Pictures of the same shape, and labels with 6 places a picture.
    """
    images, truth = _cut_together(images, truth, how.chimeras, generator)
    images, truth = _move(images, truth, how, generator)
    draw = _Draw(images, generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = draw.uniform(0, 1) * (draw.uniform(0, 1) < how.blur)
    images = images + share * (soft - images)
    contrast, brightness = draw.uniform(-how.light, how.light), draw.uniform(-how.light, how.light)
    images = (images - 0.5) * (1 + contrast) + 0.5 + brightness
    strength = draw.uniform(0, how.noise) * (draw.uniform(0, 1) < 0.5)
    grain = torch.randn(images.shape, device=images.device, generator=generator)
    return (images + strength * grain).clamp(0, 1), truth


class _Draw:
    """Random numbers, one a picture."""

    def __init__(self, images: Tensor, generator: torch.Generator) -> None:
        self.shape, self.device, self.generator = (len(images), 1, 1, 1), images.device, generator

    def uniform(self, low: float, high: float) -> Tensor:
        """[N, 1, 1, 1] in [low, high)."""
        return low + (high - low) * torch.rand(
            self.shape, device=self.device, generator=self.generator
        )


def _move(
    images: Tensor, truth: Labels, how: Damage, generator: torch.Generator
) -> tuple[Tensor, Labels]:
    """Shift, zoom; the boxes go along. Not mirrored: which half of a split thing is its main colour
    would become a matter of chance."""
    draw = _Draw(images, generator)
    scale = draw.uniform(-how.zoom, how.zoom).exp().view(-1)
    dx, dy = (
        draw.uniform(-how.shift, how.shift).view(-1),
        draw.uniform(-how.shift, how.shift).view(-1),
    )
    # Output point p shows input point (p - d) / s around the centre, in fractions of the picture.
    zero = torch.zeros_like(dx)
    matrix = torch.stack(
        [
            torch.stack([1 / scale, zero, -2 * dx / scale], 1),
            torch.stack([zero, 1 / scale, -2 * dy / scale], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    x = 0.5 + (truth.boxes[..., 0] - 0.5) * scale[:, None] + dx[:, None]
    y = 0.5 + (truth.boxes[..., 1] - 0.5) * scale[:, None] + dy[:, None]
    boxes = torch.stack([x, y, truth.boxes[..., 2] * scale[:, None]], 2)
    inside = (boxes[..., :2] > 0.02).all(2) & (boxes[..., :2] < 0.98).all(2)
    return moved, replace(truth, boxes=boxes, present=truth.present & inside)


def _cut_together(
    images: Tensor, truth: Labels, share: float, generator: torch.Generator
) -> tuple[Tensor, Labels]:
    """Cut some pictures together with others, along a line, or fade one into the other."""
    n, device = len(images), images.device
    draw = _Draw(images, generator)
    chosen = draw.uniform(0, 1) < share  # [N, 1, 1, 1]
    other = torch.arange(n, device=device).roll(n // 2)
    line = (torch.arange(SIZE, device=device) + 0.5) / SIZE
    angle = draw.uniform(0, 2 * math.pi)
    through = truth.boxes[:, 0, :2]  # [N, 2]
    along = (line.view(1, 1, 1, -1) - through[:, 0].view(-1, 1, 1, 1)) * angle.cos()
    along = along + (line.view(1, 1, -1, 1) - through[:, 1].view(-1, 1, 1, 1)) * angle.sin()
    aside = draw.uniform(-0.25, 0.25)
    mask = ((along - aside) / 0.02).sigmoid()  # [N, 1, 128, 128], 1 keeps the picture
    mask = torch.where(draw.uniform(0, 1) < 0.2, draw.uniform(0.3, 0.7).expand_as(mask), mask)
    mask = torch.where(chosen, mask, torch.ones_like(mask))
    second = truth.at(other)
    both = Labels(
        **{
            f.name: torch.cat([getattr(truth, f.name), getattr(second, f.name)], 1)
            for f in fields(Labels)
        }
    )
    whole = torch.cat([_kept(mask, truth.boxes), _kept(1 - mask, second.boxes)], 1)  # [N, 6]
    there = both.present & (whole > 0.9)
    unsure = both.present & (whole > 0.6) & ~there
    picture = torch.where(chosen.view(-1, 1), IGNORE, truth.picture)
    mixed = mask * images + (1 - mask) * images[other]
    return mixed, replace(both, present=there, unsure=unsure, picture=picture)


def _kept(mask: Tensor, boxes: Tensor) -> Tensor:
    """[N, S] share of each thing's middle that a mask [N, 1, H, W] keeps."""
    line = torch.linspace(-0.4, 0.4, 7, device=mask.device)
    spot = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(
        1, 1, -1, 2
    )  # [1, 1, 49, 2]
    where = boxes[:, :, None, :2] + spot * boxes[:, :, None, 2:]  # [N, S, 49, 2]
    values = F.grid_sample(mask, 2 * where - 1, padding_mode="border", align_corners=False)
    return values[:, 0].mean(2)
