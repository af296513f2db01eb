"""What a scorer is, and the scorers there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from compose.errors import ShapeError
from compose.evaluate.bootstrap import Floats

Reference = TypeVar("Reference", contravariant=True)
_BATCH = 64  # pictures or texts at once


class Scorer(Protocol[Reference]):
    """Compares each picture with a reference of its own: a text, or another picture."""

    @property
    def name(self) -> str:
        """For tables."""

    def score(self, images: Sequence[Image.Image], references: Sequence[Reference]) -> Floats:
        """More is better.

        Args:
            images: n pictures.
            references: n of them.

        Returns:
            [n].

        Raises:
            ShapeError: not as many references as pictures.
        """


class ImageEncoder(Protocol):
    """Pictures to features."""

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, D] of n RGB pictures of any size; not normalised."""


class ClipEncoder(ImageEncoder, Protocol):
    """Pictures and texts to features of one space."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[n, D] of n texts; not normalised."""


@dataclass(frozen=True)
class ClipScorer:
    """CLIPScore: 100 times the cosine of picture and text, and 0 where that is negative.

    The factor 100 is torchmetrics'; Hessel et al. 2021 (arXiv 2104.08718) use 2.5 for the same.
    What such scores do not tell is in docs/evaluate.md.

    Attributes:
        name: for tables.
        encoder: of both.
    """

    name: str
    encoder: ClipEncoder

    def score(self, images: Sequence[Image.Image], references: Sequence[str]) -> Floats:
        """As of `Scorer`; references are texts, scores are 0 to 100."""
        _check(images, references)
        seen = _features(self.encoder.images, images)
        read = _features(self.encoder.texts, references)
        scores: Floats = 100 * cosine_similarity(seen, read).clamp_min(0).double().numpy()
        return scores


@dataclass(frozen=True)
class ImageScorer:
    """The cosine of two pictures' features: 1 for equal pictures, at least -1.

    Attributes:
        name: for tables.
        encoder: DINO, DINOv2, or the picture's half of CLIP.
    """

    name: str
    encoder: ImageEncoder

    def score(self, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> Floats:
        """As of `Scorer`; references are pictures."""
        _check(images, references)
        features = _features(self.encoder.images, [*images, *references])
        one, other = features[: len(images)], features[len(images) :]
        scores: Floats = cosine_similarity(one, other).clamp(-1, 1).double().numpy()
        return scores


@dataclass(frozen=True)
class PluginScorer:
    """A function of the user's.

    Attributes:
        name: for tables.
        function: images and references to one number each.
    """

    name: str
    function: Callable[[Sequence[Image.Image], Sequence[Any]], Any]

    def score(self, images: Sequence[Image.Image], references: Sequence[Any]) -> Floats:
        """As of `Scorer`.

        Raises:
            ShapeError: the function does not give one finite number for every picture.
        """
        _check(images, references)
        scores = np.asarray(self.function(images, references), dtype=np.float64)
        if scores.shape != (len(images),) or not np.isfinite(scores).all():
            raise ShapeError(
                f"scorer {self.name} gave {scores.shape} for {len(images)} pictures; expected one"
                " finite number for each"
            )
        return scores


def _check(images: Sequence[Image.Image], references: Sequence[Any]) -> None:
    if len(images) != len(references) or not len(images):
        raise ShapeError(
            f"{len(images)} pictures and {len(references)} references; expected one reference for"
            " each picture, and at least one"
        )


T = TypeVar("T")


def _features(encode: Callable[[list[T]], Tensor], things: Sequence[T]) -> Tensor:
    """[n, D] in float32 on the CPU; what comes more than once is encoded once."""
    keys = [thing if isinstance(thing, str) else id(thing) for thing in things]
    different = dict(zip(keys, things, strict=True))
    place = {key: i for i, key in enumerate(different)}
    with torch.inference_mode():
        made = [encode(part).float().cpu() for part in _batches(list(different.values()))]
    return torch.cat(made)[[place[key] for key in keys]]


def _batches(things: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(things), _BATCH):
        yield things[start : start + _BATCH]
