"""Scores of each concept by itself: the mean hides the one that was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from compose.errors import ShapeError
from compose.evaluate.bootstrap import Floats
from compose.evaluate.scorers.scorer import Reference, Scorer


@dataclass(frozen=True)
class ConceptScores:
    """Scores of n pictures.

    Attributes:
        each: for every picture the scores of its concepts, in their order.
        least: [n], of the concept that fares worst.
        mean: [n], over concepts.
    """

    each: tuple[tuple[float, ...], ...]
    least: Floats
    mean: Floats


def concept_scores(
    scorer: Scorer[Reference],
    images: Sequence[Image.Image],
    concepts: Sequence[Sequence[Reference]],
) -> ConceptScores:
    """Score every concept of every picture separately.

    Args:
        scorer: of texts or of pictures.
        images: n pictures.
        concepts: for each, at least one reference: a concept's own words without the rest of the
            prompt, or a picture that its adapter made alone.

    Raises:
        ShapeError: not as many lists as pictures, or an empty one.
    """
    if len(images) != len(concepts) or not all(len(own) for own in concepts):
        raise ShapeError(
            f"{len(images)} pictures and concepts {[len(own) for own in concepts]}; expected at"
            " least one concept for each picture"
        )
    pairs = [(image, one) for image, own in zip(images, concepts, strict=True) for one in own]
    scores = scorer.score([image for image, _ in pairs], [one for _, one in pairs])
    ends = np.cumsum([0, *(len(own) for own in concepts)])
    each = [scores[start:end] for start, end in pairwise(ends)]
    return ConceptScores(
        tuple(tuple(float(v) for v in own) for own in each),
        np.array([own.min() for own in each]),
        np.array([own.mean() for own in each]),
    )
