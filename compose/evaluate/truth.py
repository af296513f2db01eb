"""Measures of many pictures at once: distance to true pictures, and variety."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import torch
from torch import Tensor

from compose.evaluate.features import Key, RowFeatures, read_features

REFERENCE = "rendered"
"""The row of true pictures."""
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class CorpusFigure:
    """One figure of a row.

    Attributes:
        row: name of the row.
        metric: "kid" or "diversity".
        value: the figure.
        low, high: 95 % interval, by leaving out one case at a time.
        n: pictures.
        units: cases.
    """

    row: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    units: int


def corpus_figures(folder: Path) -> list[CorpusFigure]:
    """Figures of every row of an evaluation but the true pictures themselves.

    - kid: kernel distance of the row's pictures from renders of the same scenes. 0 for true
      pictures, and unbiased, so it may fall a little below.
    - diversity: mean distance between the pictures of one prompt under different seeds, over that
      of renders of the same scenes: 1 for as varied as the world, 0 for always the same.

    Args:
        folder: where `compose.evaluate.features.update_features` has written.
    """
    rows = read_features(folder)
    reference = rows.pop(REFERENCE, None)
    if reference is None:
        return []
    figures = []
    for name, row in rows.items():
        cases: dict[str, list[Key]] = {}
        for case, seed in (key for key in row.keys if key in set(reference.keys)):
            cases.setdefault(case, []).append((case, seed))
        groups = list(cases.values())
        if len(groups) > 2:
            keys = [key for group in groups for key in group]
            core = kid_core(row.at(keys), reference.at(keys))
            labels = torch.tensor([i for i, group in enumerate(groups) for _ in group])
            without = [kid(core[kept][:, kept]) for kept in _without_each(labels)]
            figures.append(_figure(name, "kid", kid(core), without, len(keys)))
        several = [group for group in groups if len(group) > 1]
        varied = [_variety(row, reference, group) for group in several]
        if len(varied) > 1:
            shares = [ratio(varied[:i] + varied[i + 1 :]) for i in range(len(varied))]
            pictures = sum(map(len, several))
            figures.append(_figure(name, "diversity", ratio(varied), shares, pictures))
    return figures


def kid_core(pictures: Tensor, references: Tensor) -> Tensor:
    """What two pictures and their references add to the distance, [n, n].

    With the kernel of KID, ``k(x, y) = (x . y / d + 1) ** 3`` (Binkowski et al. 2018, arXiv
    1801.01401): ``k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)``.

    Args:
        pictures, references: [n, d], standing together row by row.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    across = kernel(pictures, references)
    own, true = kernel(pictures, pictures), kernel(references, references)
    return own + true - across - across.T


def kid(core: Tensor) -> float:
    """Squared maximum mean discrepancy, unbiased: the mean of `kid_core` over all pairs of two
    (Gretton et al. 2012, JMLR 13, lemma 6)."""
    n = len(core)
    return float((core.sum() - core.diagonal().sum()) / (n * (n - 1)))


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Sum of the first over sum of the second."""
    return sum(a for a, _ in pairs) / sum(b for _, b in pairs)


def mean_distance(features: Tensor) -> float:
    """Mean Euclidean distance over all pairs of n >= 2 rows, [n, d]."""
    return float(torch.pdist(features.double()).mean())


def _variety(row: RowFeatures, reference: RowFeatures, keys: Sequence[Key]) -> tuple[float, float]:
    """How far the pictures of one case lie apart, and how far the renders of its scenes do."""
    return mean_distance(row.at(keys)), mean_distance(reference.at(keys))


def _without_each(labels: Tensor) -> Iterator[Tensor]:
    """Places of all pictures but those of one case, for every case."""
    for case in range(int(labels.max()) + 1):
        yield (labels != case).nonzero()[:, 0]


def _figure(
    row: str, metric: str, value: float, without: Sequence[float], pictures: int
) -> CorpusFigure:
    """With the interval of the jackknife (Efron and Tibshirani 1993, chapter 11)."""
    n = len(without)
    mean = sum(without) / n
    half = _Z * math.sqrt((n - 1) / n * sum((v - mean) ** 2 for v in without))
    return CorpusFigure(row, metric, value, value - half, value + half, pictures, n)
