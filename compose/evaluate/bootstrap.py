"""95 % intervals of means, shares, differences and ratios, when pictures are not independent.

Pictures of one combination of adapters resemble each other: a pair that is easy for one seed is
easy for the next. So what is drawn anew is never a picture but a whole **unit** (a combination, or
a case) with all its pictures. Three corrections make the percentiles of 2000 such draws honest:

- *Few units.* Percentile intervals of a mean are too narrow by the ratio of normal to Student
  quantiles; the percentiles are taken further out (Hesterberg 2015, "What Teachers Should Know
  About the Bootstrap", the "expanded percentile interval").
- *Shares near 0 and 1.* Drawing from nothing but zeros says that there is nothing but zeros. A
  share gets two right and two wrong pictures that were never made (Agresti and Coull 1998), a
  difference of shares one better and one worse (Bonett and Price 2012). They move the interval
  only: the value is that of the pictures.
- *One picture a unit*: then pictures are independent, and a share of right ones has Wilson's
  interval.

`tests/evaluate/test_bootstrap.py` measures how often these intervals are wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from compose.errors import ShapeError
from compose.evaluate.statistics import wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 2000
_TAIL = 0.025
_NORMAL = NormalDist()
_EXPANSION = (  # coefficients of z, z^3 ... z^9; a row for each power of 1 / degrees
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (1 / 4, 1 / 4, 0.0, 0.0, 0.0),
    (3 / 96, 16 / 96, 5 / 96, 0.0, 0.0),
    (-15 / 384, 17 / 384, 19 / 384, 3 / 384, 0.0),
    (-945 / 92160, -1920 / 92160, 1482 / 92160, 776 / 92160, 79 / 92160),
)
_SHARE = np.array([1.0, 1.0, 0.0, 0.0])  # pictures added to a share
_CHANGE = np.array([1.0, -1.0])  # pairs added to a difference of shares


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval.

    Attributes:
        value: of the pictures that there are.
        low, high: ends; None when there are fewer than two units, which say nothing about others.
        n: pictures, or pairs of pictures.
        units: that were drawn from.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    units: int

    @property
    def above(self) -> bool:
        """The whole interval is above 0."""
        return self.low is not None and self.low > 0

    @property
    def below(self) -> bool:
        """The whole interval is below 0."""
        return self.high is not None and self.high < 0


def mean_interval(
    values: Floats, units: Ints, *, share: bool, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The mean over pictures.

    Args:
        values: [n], n at least 1.
        units: [n], which unit each picture belongs to.
        share: whether values count what is right: 0 or 1, or so many of a few (0, 1/2, 1).
        draws: how often units are drawn.
        seed: of the draws.

    Raises:
        ShapeError: no values, or not as many units.
    """
    sums, counts = _by_unit(values, units)
    if share and len(sums) == len(values) > 1 and np.isin(values, (0, 1)).all():
        value = float(values.mean())
        low, high = wilson(round(float(sums.sum())), len(values))
        # none or all of them right: the ends miss 0 and 1 by rounding
        return Interval(value, min(low, value), max(high, value), len(values), len(sums))
    return _interval(values, sums, counts, _SHARE if share else _SHARE[:0], draws, seed)


def difference_interval(
    new: Floats,
    old: Floats,
    units: Ints,
    *,
    share: bool,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The mean of ``new - old`` over pairs of pictures.

    Args:
        new, old: [n] of the same cases and seeds, in the same order.
        units, share, draws, seed: as of `mean_interval`.

    Raises:
        ShapeError: no pairs, or arrays of different lengths.
    """
    if new.shape != old.shape:
        raise ShapeError(f"{len(new)} values against {len(old)}; expected pairs of the same cases")
    change = new - old
    sums, counts = _by_unit(change, units)
    return _interval(change, sums, counts, _CHANGE if share else _CHANGE[:0], draws, seed)


def independent_difference(new: Interval, old: Interval) -> Interval:
    """``new - old`` of figures from different pictures.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions",
    method 10, for any two intervals (Zou and Donner 2008).
    """
    n, units = min(new.n, old.n), min(new.units, old.units)
    value = new.value - old.value
    if new.low is None or new.high is None or old.low is None or old.high is None:
        return Interval(value, None, None, n, units)
    low = value - math.hypot(new.value - new.low, old.high - old.value)
    high = value + math.hypot(new.high - new.value, old.value - old.low)
    return Interval(value, low, high, n, units)


def ratio_interval(part: Interval, whole: Interval) -> Interval | None:
    """``part / whole`` of two figures that are not negative.

    Takes them as independent; where the same cases are hard for both, the interval is too wide
    rather than too narrow.

    Returns:
        None when the whole is 0. No upper end is known when the whole may be 0.

    Source: the limits R at which the interval of ``part - R whole`` (as of
    `independent_difference`) ends at 0 (Donner and Zou 2012).
    """
    if whole.value <= 0:
        return None
    n, units = min(part.n, whole.n), min(part.units, whole.units)
    value = part.value / whole.value
    if part.low is None or part.high is None or whole.low is None or whole.high is None:
        return Interval(value, None, None, n, units)
    product = part.value * whole.value
    inner, outer = _fold(part.low, part.value), _fold(part.high, part.value)
    most, least = _fold(whole.high, whole.value), _fold(whole.low, whole.value)
    # the ends may be exact, and the roots then 0 but for rounding
    root_low = math.sqrt(max(product**2 - inner * most, 0.0))
    root_high = math.sqrt(max(product**2 - outer * least, 0.0))
    low = inner / (product + root_low) if inner > 0 else 0.0
    high = (product + root_high) / least if least > 0 else None
    return Interval(value, low, high, n, units)


def _fold(end: float, value: float) -> float:
    return end * (2 * value - end)


def _by_unit(values: Floats, units: Ints) -> tuple[Floats, Floats]:
    """Sum and number of pictures of each unit, [units] each."""
    if len(values) == 0 or values.shape != units.shape:
        raise ShapeError(
            f"{len(values)} values of {len(units)} units; expected as many, at least one"
        )
    names, index = np.unique(units, return_inverse=True)
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(sums, index, values)
    np.add.at(counts, index, 1.0)
    return sums, counts


def _interval(
    values: Floats, sums: Floats, counts: Floats, added: Floats, draws: int, seed: int
) -> Interval:
    """Percentiles of the mean over drawn units, each added picture being a unit of its own."""
    value, n, units = float(values.mean()), len(values), len(sums)
    if units < 2:
        return Interval(value, None, None, n, units)
    times = _times(units + len(added), draws, seed)
    drawn = times @ np.concatenate([sums, added])
    drawn /= times @ np.concatenate([counts, np.ones(len(added))])
    tail = expanded_tail(units)
    low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail)))
    return Interval(value, low, high, n, units)


@lru_cache(maxsize=16)
def _times(units: int, draws: int, seed: int) -> Floats:
    """How often each of the units comes in each draw of as many, [draws, units]."""
    rng = np.random.default_rng([seed, units])
    return rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def expanded_tail(units: int) -> float:
    """Share of the draws to leave out at each end: 2.5 %, and less for few units."""
    return _NORMAL.cdf(-student(units - 1) * math.sqrt(units / (units - 1)))


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's distribution, from 2 degrees on to 1 %.

    Source: Abramowitz and Stegun 1964, 26.7.5.
    """
    z = _NORMAL.inv_cdf(1 - _TAIL)
    powers = np.array([z, z**3, z**5, z**7, z**9])
    terms = powers @ np.array(_EXPANSION).T  # [5]
    return float(terms @ float(degrees) ** -np.arange(5))
