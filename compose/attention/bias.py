"""Logits that are added in attention layers: who may attend to whom, and how readily.

A bias gives blocks, from queries of image or text to keys of image or text; a layer takes the
blocks that it has. Minus infinity forbids. On the way into a layer it becomes a finite number whose
exponential is exactly zero, so that no dtype makes NaN of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from compose.attention.columns import additive
from compose.attention.layers import LayerRule, Place, Side, image_layers, text_layers
from compose.attention.masks import on_grid
from compose.errors import CaptureError, ShapeError

Blocks = Mapping[tuple[Side, Side], Tensor]
"""Sides of queries and of keys to logits [images | 1, n_q, n_k]."""


class Bias(Protocol):
    """Logits for chosen layers."""

    @property
    def layers(self) -> LayerRule:
        """Which layers."""
        ...

    def blocks(self, grid: tuple[int, int], text: int, device: torch.device) -> Blocks:
        """The logits for image tokens on a grid (h, w) and for `text` text tokens."""
        ...


@dataclass(frozen=True)
class Isolation:
    """What is in one region does not see what is in another.

    An image token may not attend to one that is in other regions only. Tokens in no region see
    everything, and are seen by everything. After the concept region mask of LoRA-Composer (Yang et
    al. 2024, arXiv 2403.11627, section 4.2); where regions overlap it bans tokens from themselves,
    here tokens that share a region see each other.

    Attributes:
        masks: [images | 1, K, H, W] of the regions, at any resolution.
        layers: which; by default all in which image tokens attend to each other.
    """

    masks: Tensor
    layers: LayerRule = field(default_factory=image_layers)

    def blocks(self, grid: tuple[int, int], text: int, device: torch.device) -> Blocks:
        """Minus infinity between tokens of different regions."""
        del text
        inside = on_grid(self.masks.to(device), grid).flatten(2)  # [images, K, n]
        some = inside.any(dim=1)
        strangers = some[:, :, None] & some[:, None, :] & ~_share(inside, inside)
        return {("image", "image"): _forbidden(strangers)}


@dataclass(frozen=True)
class TextBias:
    """Image tokens of a region attend to its own words more readily, to those of others less.

    After FreeFuse (arXiv 2510.23515). An image token in a region gets `own` added for that region's
    words and `other` for words of regions that it is not in. Back from the text, words of a region
    get `own` for image tokens in it and `other` for all that are not. Words of no region are left
    alone.

    Attributes:
        masks: [images | 1, K, H, W] of the regions, at any resolution.
        words: [images | 1, T, K], non-zero where a text token belongs to a region.
        own, other: logits; usually one above and one below zero.
        back: whether the text's queries are changed too, in layers where the text attends.
        layers: which; by default all in which image tokens attend to text.
    """

    masks: Tensor
    words: Tensor
    own: float = 2.0
    other: float = -4.0
    back: bool = True
    layers: LayerRule = field(default_factory=text_layers)

    def __post_init__(self) -> None:
        _check(self.masks, self.words)

    def blocks(self, grid: tuple[int, int], text: int, device: torch.device) -> Blocks:
        """Logits between image and text."""
        inside = on_grid(self.masks.to(device), grid).flatten(2)  # [images, K, n]
        words = _words(self.words, text, device)
        share = _share(inside, words).float()  # [images, n, T]
        somewhere = inside.any(dim=1)[:, :, None].float()
        named = words.any(dim=1)[:, None, :].float()
        apart = (1 - share) * named
        found: dict[tuple[Side, Side], Tensor] = {
            ("image", "text"): self.own * share + self.other * apart * somewhere
        }
        if self.back:
            found["text", "image"] = (self.own * share + self.other * apart).transpose(1, 2)
        return found


@dataclass(frozen=True)
class RegionBlocks:
    """Every region is a world of its own: its words and its image tokens see only each other.

    Words and image tokens of no region make up one more such world, the background's. After
    Regional-Prompting-FLUX (https://github.com/instantX-research/Regional-Prompting-FLUX), where
    the texts of all regions stand one after another; a token that could see nothing at all sees
    everything.

    Attributes:
        masks: [images | 1, K, H, W] of the regions, at any resolution.
        words: [images | 1, T, K], non-zero where a text token belongs to a region.
        layers: which; by default all in which image tokens attend to text. In cross-attention it is
            the part from image to text.
    """

    masks: Tensor
    words: Tensor
    layers: LayerRule = field(default_factory=text_layers)

    def __post_init__(self) -> None:
        _check(self.masks, self.words)

    def blocks(self, grid: tuple[int, int], text: int, device: torch.device) -> Blocks:
        """Minus infinity wherever nothing is shared."""
        sides: dict[Side, Tensor] = {
            "image": _with_background(on_grid(self.masks.to(device), grid).flatten(2)),
            "text": _with_background(_words(self.words, text, device)),
        }
        return {(q, k): _forbidden(~_share(sides[q], sides[k])) for q in sides for k in sides}


def layer_bias(biases: Iterable[Bias], place: Place, device: torch.device) -> Tensor:
    """What biases add up to in one layer, [images | 1, n_q, n_k] float32.

    Raises:
        CaptureError: a bias has no block for this layer.
    """
    total = torch.zeros(1, *place.shape, device=device)
    for bias in biases:
        hit = False
        for (query, key), block in bias.blocks(place.grid, place.text, device).items():
            if query in place.queries and key in place.keys:
                full = block.new_zeros(block.shape[0], *place.shape)
                full[:, place.queries[query], place.keys[key]] = block
                total, hit = total + full, True
        if not hit:
            raise CaptureError(
                f"a {type(bias).__name__} was to act at {place.site.path}, a layer in which image"
                f" tokens attend to {place.site.keys} tokens, which it says nothing about; expected"
                " other layers"
            )
    return total


def merged(bias: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A bias together with the mask that a layer has already, ready for its softmax.

    Args:
        bias: [rows, 1, n_q, n_k] float32, with minus infinity for what is forbidden. A query for
            which it forbids every key is left alone.
        mask: additive or boolean, to be broadcast to [rows, heads, n_q, n_k].
        dtype: of the layer's queries.

    Returns:
        [rows, heads | 1, n_q, n_k] in `dtype`, all finite.
    """
    precise = torch.promote_types(dtype, torch.float32)
    total = bias.masked_fill(bias.isneginf().all(dim=-1, keepdim=True), 0.0).to(precise)
    if mask is not None:
        total = total + additive(mask, precise)
    # Half of the least number: a product of queries and keys may still be added to it.
    return total.clamp(min=torch.finfo(dtype).min / 2).to(dtype)


def membership(positions: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Words [1, T, K] of K regions from the text positions of each."""
    found = torch.zeros(1, tokens, len(positions))
    for k, chosen in enumerate(positions):
        found[0, list(chosen), k] = 1.0
    return found


def _check(masks: Tensor, words: Tensor) -> None:
    if masks.ndim != 4 or words.ndim != 3 or masks.shape[1] != words.shape[2]:
        raise ShapeError(
            f"masks {list(masks.shape)} and words {list(words.shape)} of regions; expected"
            " [images, K, H, W] and [images, T, K]"
        )


def _words(words: Tensor, text: int, device: torch.device) -> Tensor:
    """[images, K, T], whether a text token belongs to a region."""
    if words.shape[1] != text:
        raise ShapeError(
            f"words over {words.shape[1]} text tokens met {text} text tokens; expected as many as"
            " the conditioning has"
        )
    return words.to(device).transpose(1, 2) != 0


def _share(a: Tensor, b: Tensor) -> Tensor:
    """[images, n_a, n_b], whether two tokens have a region in common; from [images, K, n] each."""
    return a.float().transpose(1, 2) @ b.float() > 0


def _with_background(inside: Tensor) -> Tensor:
    """One more region: what is in none."""
    return torch.cat([inside, ~inside.any(dim=1, keepdim=True)], dim=1)


def _forbidden(where: Tensor) -> Tensor:
    return torch.zeros(where.shape, device=where.device).masked_fill(where, -torch.inf)
