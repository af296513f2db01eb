"""Measures of many pictures at once, on features [n, D] of any encoder.

Pure functions: a recognizer's embeddings, CLIP or DINOv2 features all do, as long as both sides
come from the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compose.errors import ShapeError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """How far two sets of pictures are apart.

    Attributes:
        value: 0 in the mean over samples of one distribution; may be negative by chance.
        deviation: standard deviation of the value.
    """

    value: float
    deviation: float


def kid(one: Floats, other: Floats) -> Distance:
    """Kernel Inception distance: unbiased squared MMD with the kernel (x y / D + 1)^3.

    The deviation is the jackknife's over single pictures. It is too large rather than too small
    where the distributions are equal (the estimate is then a degenerate U-statistic).

    Args:
        one, other: features [n, D] and [m, D], n and m at least 3.

    Raises:
        ShapeError: other shapes.

    Source: Binkowski et al. 2018 (arXiv 1801.01401), section 4 and equation 4.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ShapeError(f"features {one.shape} and {other.shape}; expected [n, D] and [m, D]")
    if min(len(one), len(other)) < 3:
        raise ShapeError(f"{len(one)} and {len(other)} pictures; expected at least 3 of each")
    n, m = len(one), len(other)
    first, second, across = _kernel(one, one), _kernel(other, other), _kernel(one, other)
    rows, columns = _off_diagonal(first), _off_diagonal(second)
    within, beyond, between = rows.sum(), columns.sum(), across.sum()
    value = within / (n * (n - 1)) + beyond / (m * (m - 1)) - 2 * between / (n * m)
    # the same without picture i of the one set, [n], and without picture j of the other, [m]
    less_one = (
        (within - 2 * rows) / ((n - 1) * (n - 2))
        + beyond / (m * (m - 1))
        - 2 * (between - across.sum(1)) / ((n - 1) * m)
    )
    less_other = (
        within / (n * (n - 1))
        + (beyond - 2 * columns) / ((m - 1) * (m - 2))
        - 2 * (between - across.sum(0)) / (n * (m - 1))
    )
    variance = (n - 1) * less_one.var() + (m - 1) * less_other.var()
    return Distance(float(value), float(np.sqrt(variance)))


def _kernel(one: Floats, other: Floats) -> Floats:
    kernel: Floats = (one @ other.T / one.shape[1] + 1) ** 3
    return kernel


def _off_diagonal(kernel: Floats) -> Floats:
    """Sum of each row without the picture itself, [n]."""
    sums: Floats = kernel.sum(1) - np.diagonal(kernel)
    return sums


def diversity(features: Floats, cases: Sequence[str]) -> dict[str, float]:
    """How much the seeds of a case differ: mean cosine distance over pairs of its pictures.

    Args:
        features: [n, D], none of them zero.
        cases: [n], what each picture shows.

    Returns:
        Case to distance, 0 (all alike) to 2. Cases with a single picture are left out.

    Raises:
        ShapeError: other shapes.
    """
    if features.ndim != 2 or len(features) != len(cases):
        raise ShapeError(f"features {features.shape} of {len(cases)} cases; expected [n, D] of n")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    names = np.asarray(cases)
    out: dict[str, float] = {}
    for case in dict.fromkeys(cases):
        own = unit[names == case]  # [s, D]
        count = len(own)
        if count > 1:
            # the sum over all pairs, each twice, is that of the whole Gram matrix less its diagonal
            alike = (np.square(own.sum(0)).sum() - count) / (count * (count - 1))
            out[case] = float(1 - alike)
    return out
