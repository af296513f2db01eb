"""The network that reads pictures of the embedded world.

A centre detector after "Objects as Points" (Zhou et al., 2019, https://arxiv.org/abs/1904.07850): a
heatmap with one peak a thing, a sub-cell offset and a size. What a thing is and wears is read from
a window of the features laid over the thing, so a colour is judged on the whole body and a
neighbour's body is kept out. `compose.world.reading` turns the tensors made here into words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compose.errors import ShapeError
from compose.world.vocabulary import ACCESSORIES, BACKGROUNDS, COLOURS, PATTERNS, SPECIES, STYLES

NONE = "none"
_COLOURS = tuple(COLOURS)
# What is read of each thing and of the picture: head -> its words, in the order of the logits.
THING_HEADS: dict[str, tuple[str, ...]] = {
    "species": SPECIES,
    "colour": _COLOURS,
    "pattern": PATTERNS,
    "second": (*_COLOURS, NONE),
    "accessory": ACCESSORIES,
    "accessory_colour": (*_COLOURS, NONE),
}
PICTURE_HEADS: dict[str, tuple[str, ...]] = {"background": BACKGROUNDS, "style": STYLES}
COLOUR_HEADS = ("colour", "second", "accessory_colour")
COLOURLESS_STYLES = ("blueprint",)  # one ink for everything: no colour can be told there

SIZE = 128  # pixels, height and width of a picture
STRIDE = 4  # pixels a heatmap cell
GRID = SIZE // STRIDE
EMBEDDING = 64
_WINDOW = 9  # samples across the window laid over a thing
_REACH = 0.68  # half the window's side as a share of the thing's height


@dataclass(frozen=True)
class Features:
    """What the trunk saw.

    Attributes:
        fine: [N, 32, 64, 64], edges and small details at stride 2.
        fused: [N, 96, 32, 32], context of the whole body at stride 4.
        heat: [N, 32, 32] logits of "a thing's centre lies in this cell".
        offset: [N, 2, 32, 32] centre inside its cell, (x, y) in cells, about 0 to 1.
        size: [N, 32, 32] natural logarithm of the thing's height as a fraction of the picture.
        picture: head -> [N, words] logits of `PICTURE_HEADS`.
    """

    fine: Tensor
    fused: Tensor
    heat: Tensor
    offset: Tensor
    size: Tensor
    picture: dict[str, Tensor]


class ConvNorm(nn.Module):
    """Convolution with batch normalisation, foldable into one convolution for inference."""

    def __init__(self, inner: int, outer: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inner, H, W] to [N, outer, H / stride, W / stride]."""
        out: Tensor = self.norm(self.conv(x))
        return out

    def fold(self) -> None:
        """Merge the normalisation into the convolution; evaluation only, cannot be undone."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class Residual(nn.Module):
    """Two convolutions beside an identity path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = ConvNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same shape."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class _Stage(nn.Module):
    """Halve the grid, then `depth` residual blocks."""

    def __init__(self, inner: int, outer: int, depth: int) -> None:
        super().__init__()
        self.down = ConvNorm(inner, outer, stride=2)
        self.blocks = nn.Sequential(*(Residual(outer) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(F.relu(self.down(x)))
        return out


class Recognizer(nn.Module):
    """Reads species, colours, patterns, accessories, places, background and style of 128 x 128
    pictures.

    Attributes:
        temperatures: head -> divisor of its logits, fitted on held-out renders so that
            probabilities are calibrated.
        threshold: least peak height of a thing, 0 to 1.
    """

    def __init__(self) -> None:
        super().__init__()
        fine, mid, deep, top, fused = 32, 64, 128, 144, 96
        self.stem = _Stage(3, fine, 1)
        self.mid = _Stage(fine, mid, 2)
        self.deep = _Stage(mid, deep, 2)
        self.top = _Stage(deep, top, 1)
        self.from_top = ConvNorm(top, fused, 1)
        self.from_deep = ConvNorm(deep, fused, 1)
        self.from_mid = ConvNorm(mid, fused, 1)
        self.fuse = ConvNorm(fused, fused)
        self.centre = ConvNorm(fused, 64)
        self.points = nn.Conv2d(64, 4, 1)  # heat, offset x, offset y, log size
        self.detail = ConvNorm(fine, 48, stride=2)
        self.join = ConvNorm(48 + fused, fused, 1)
        self.body = Residual(fused)
        self.heads = nn.ModuleDict(
            {n: nn.Linear(2 * fused, len(w)) for n, w in THING_HEADS.items()}
        )
        self.embed = nn.Linear(2 * fused, EMBEDDING)
        self.picture = nn.ModuleDict(
            {n: nn.Linear(top + 2 * fused, len(w)) for n, w in PICTURE_HEADS.items()}
        )
        nn.init.constant_(self.points.bias[:1], -4.0)  # type: ignore[index]  # few cells are centres
        self.temperatures: dict[str, float] = dict.fromkeys((*THING_HEADS, *PICTURE_HEADS), 1.0)
        self.threshold = 0.35

    def forward(self, images: Tensor) -> Features:
        """Look at pictures.

        Args:
            images: [N, 3, 128, 128] in [0, 1].

        Raises:
            ShapeError: for any other shape.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
            raise ShapeError(
                f"got pictures of shape {tuple(images.shape)}, expected [N, 3, {SIZE}, {SIZE}]; "
                "resize them, or add the batch axis"
            )
        fine = self.stem(images * 2 - 1)
        mid = self.mid(fine)
        deep = self.deep(mid)
        top = self.top(deep)
        wide = F.interpolate(self.from_top(top), scale_factor=2.0) + self.from_deep(deep)
        wide = F.interpolate(F.relu(wide), scale_factor=2.0) + self.from_mid(mid)
        fused = F.relu(self.fuse(F.relu(wide)))
        points = self.points(F.relu(self.centre(fused))).float()
        pooled = torch.cat([top.mean((2, 3)), fused.mean((2, 3)), fused.amax((2, 3))], 1)
        picture = {name: head(pooled).float() for name, head in self.picture.items()}
        return Features(fine, fused, points[:, 0], points[:, 1:3], points[:, 3], picture)

    def describe(self, features: Features, rows: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Read what stands at given places.

        Args:
            features: of `forward`.
            rows: [T] picture of each thing.
            boxes: [T, 3] centre x, centre y and height, all fractions of the picture.

        Returns:
            head -> [T, words] logits of `THING_HEADS`, and "embedding" -> [T, 64] of unit length.
        """
        detail = F.relu(self.detail(_window(features.fine, rows, boxes, 2 * _WINDOW - 1)))
        body = torch.cat([detail, _window(features.fused, rows, boxes, _WINDOW)], 1)
        body = self.body(F.relu(self.join(body)))
        pooled = torch.cat([body.mean((2, 3)), body.amax((2, 3))], 1)
        read = {name: head(pooled).float() for name, head in self.heads.items()}
        read["embedding"] = F.normalize(self.embed(pooled).float(), dim=1)
        return read

    def fold(self) -> Recognizer:
        """Fold every normalisation into its convolution: same answers, faster; inference only."""
        self.eval()
        for module in list(self.modules()):
            if isinstance(module, ConvNorm):
                module.fold()
        return self


def channels_last(network: Recognizer) -> Recognizer:
    """Lay the weights out for convolutions that read all channels of a pixel at once: faster."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def _window(maps: Tensor, rows: Tensor, boxes: Tensor, samples: int) -> Tensor:
    """Bilinear samples of a square window over each thing.

    Args:
        maps: [N, C, H, W].
        rows: [T].
        boxes: [T, 3].
        samples: samples along each side.

    Returns:
        [T, C, samples, samples].
    """
    line = torch.linspace(-1, 1, samples, device=maps.device) * _REACH
    x = boxes[:, None, 0] + line * boxes[:, None, 2]  # [T, samples], fractions of the picture
    y = boxes[:, None, 1] + line * boxes[:, None, 2]
    grid = torch.stack(
        [x[:, None, :].expand(-1, samples, -1), y[:, :, None].expand(-1, -1, samples)], dim=-1
    )
    # In single precision also under autocast: the backward pass adds up many samples of one cell.
    chosen = maps.float().index_select(0, rows)
    found = F.grid_sample(chosen, 2 * grid - 1, padding_mode="border", align_corners=False)
    return found.to(maps.dtype)
