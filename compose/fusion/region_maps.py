"""How image tokens attend to the words of regions, and to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from compose.attention import Columns, image_layers, text_layers
from compose.attention.maps import averaged
from compose.attention.masks import on_grid
from compose.fusion.region_texts import Concept
from compose.passes import Pass
from compose.run import Run
from compose.types import Step


class Listening(NamedTuple):
    """Attention at one level of a model, averaged over its layers and heads.

    Attributes:
        words: of each concept the maps of its words [images, words, h, w], over the whole grid: in
            what its stream hears. A word of several tokens has the sum of theirs.
        inward: of image tokens to image tokens [images, h * w, h * w].
    """

    words: list[Tensor]
    inward: Tensor


def listening(
    run: Run,
    step: Step,
    latents: Tensor,
    cond: Pass,
    concepts: Sequence[Concept],
    level: int,
) -> Listening:
    """Attention in the prompt's rows; with gradients on, it leads back to the latents.

    Args:
        run: it costs one call, which ends behind the last layer that is looked at.
        step, latents: as of `Run.attention`.
        cond: the prompt's pass.
        concepts: those that its streams stand for.
        level: how often the grid of the layers is halved.
    """
    streams = [
        c.stream("cond", {"words": Columns(text_layers(level), [sum(at, ()) for at in c.words])})
        for c in concepts
    ]
    image = {"image": Columns(image_layers(level), queries="image", keys="image")}
    cond = replace(cond, streams=streams, capture=image)
    found = run.attention(latents, step, [cond])
    words = [_by_word(averaged(found[f"cond/{c.name}"]["words"]), c.words[0]) for c in concepts]
    inward = torch.stack([layer.values[:, 0] for layer in found["cond"]["image"]])
    return Listening(words, inward.mean(dim=0))


def cells(concepts: Sequence[Concept], like: Tensor) -> Tensor:
    """The concepts' regions on the grid of maps or latents [..., h, w]: [K, h, w] boolean."""
    places = torch.stack([c.place for c in concepts], dim=1)
    return on_grid(places, (like.shape[-2], like.shape[-1]))[0].to(like.device)


def _by_word(maps: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """Maps of text positions [images, P, h, w] added up word by word."""
    parts = torch.split(maps, [len(word) for word in words], dim=1)
    return torch.stack([part.sum(dim=1) for part in parts], dim=1)
