"""KID and diversity against sums written out, and on distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from compose.errors import ShapeError
from compose.evaluate.corpus import diversity, kid


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def test_kid_is_the_sum_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(5, 7)), rng.normal(1, 2, size=(4, 7))
    wanted = (
        sum(kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j) / 20
        + sum(kernel(a, b) for i, a in enumerate(other) for j, b in enumerate(other) if i != j) / 12
        - 2 * sum(kernel(a, b) for a in one for b in other) / 20
    )
    assert kid(one, other).value == pytest.approx(wanted)
    assert kid(other, one).value == pytest.approx(wanted)


def test_the_deviation_is_the_jackknife() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(6, 3)), rng.normal(1, 1, size=(5, 3))
    without = [kid(np.delete(one, i, 0), other).value for i in range(6)]
    without_other = [kid(one, np.delete(other, i, 0)).value for i in range(5)]
    variance = 5 * np.var(without) + 4 * np.var(without_other)
    assert kid(one, other).deviation == pytest.approx(np.sqrt(variance))


def test_equal_distributions_are_not_apart_and_shifted_ones_are() -> None:
    alarms, found = 0, []
    for run in range(50):
        rng = np.random.default_rng(run)
        one, same = rng.normal(size=(2, 60, 16))
        near, far = kid(one, same), kid(one, same + 0.5)
        found.append(near.value)
        alarms += abs(near.value) > 2 * near.deviation
        assert far.value > 2 * far.deviation
    assert alarms <= 5  # 5 % of 50, and slack
    assert abs(np.mean(found)) < 2 * np.std(found) / np.sqrt(50)  # unbiased: 0 in the mean


def test_diversity_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 8))
    cases = ["a", "b", "a", "a", "b", "alone"]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)

    def apart(i: int, j: int) -> float:
        return 1 - float(unit[i] @ unit[j])

    found = diversity(features, cases)
    assert found == pytest.approx(
        {"a": (apart(0, 2) + apart(0, 3) + apart(2, 3)) / 3, "b": apart(1, 4)}
    )
    assert diversity(3 * features, cases) == pytest.approx(found)


def test_copies_have_no_diversity_and_opposites_the_most() -> None:
    one = np.ones(5)
    found = diversity(np.stack([one, 2 * one, one, -one]), ["same", "same", "turned", "turned"])
    assert found == pytest.approx({"same": 0.0, "turned": 2.0})


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 3\) and \(4, 2\)"):
        kid(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ShapeError, match="2 and 4 pictures; expected at least 3"):
        kid(np.zeros((2, 3)), np.zeros((4, 3)))
    with pytest.raises(ShapeError, match="of 1 cases"):
        diversity(np.zeros((2, 3)), ["a"])
