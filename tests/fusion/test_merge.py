"""Merge and its budgets."""

from __future__ import annotations

import pytest

from compose.errors import RequestError
from compose.fusion.merge import Merge
from tests import engine


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4))


@pytest.mark.parametrize(
    ("method", "equal_to"),
    [
        (Merge(budget="mean"), [0.4, 0.2]),
        (Merge(budget="total", total=0.6), [0.4, 0.2]),
        (Merge(budget="total", total=1.2), [0.8, 0.4]),
        (Merge(budget="sum"), [0.8, 0.4]),
    ],
)
def test_a_budget_is_a_scaling_of_denoiser_and_text_weights(paths, method, equal_to) -> None:
    composer = engine.composer()
    got = engine.latents(composer, engine.request(paths, [0.8, 0.4], method))
    expected = engine.latents(composer, engine.request(paths, equal_to, Merge()))
    engine.assert_close(got, expected)


def test_uncond_off_leaves_the_rows_of_the_negative_prompt_to_the_base(paths) -> None:
    composer = engine.composer()
    prepared = composer.prepare(engine.request(paths, [0.8, 0.4], Merge(uncond=False)))
    _, run = composer.latents(prepared)
    for record in run.trace:
        assert record.rows == ("uncond", "cond")
        assert record.weights[0] == (0.0, 0.0)
        assert record.weights[1] == pytest.approx((0.8, 0.4))


def test_values_are_checked() -> None:
    with pytest.raises(RequestError, match="none of sum, mean, total"):
        Merge(budget="average")
    with pytest.raises(RequestError, match="from 0 to 4"):
        Merge(total=-1)
    with pytest.raises(RequestError, match="did you mean total"):
        Merge.parse({"totl": "1"})
    assert Merge.parse({"total": "0.5", "uncond": "no"}) == Merge(total=0.5, uncond=False)
