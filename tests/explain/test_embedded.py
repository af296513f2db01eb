"""The model that ships: what the documentation says of its explanations."""

from __future__ import annotations

import pytest

from compose.composer import Composer
from compose.explain import Explainer, Explanation
from compose.fusion.regional import Regional
from compose.regions import Box
from compose.request import AdapterUse, Request


@pytest.fixture(scope="module")
def told() -> list[Explanation]:
    """One picture, looked at as ever and at every step."""
    halves = {"mochi": Box(0, 0, 0.5, 1), "ember": Box(0.5, 0, 1, 1)}
    asked = Request(
        "mochi cat on the left and ember cat on the right in the meadow",
        adapters=tuple(AdapterUse(name, region=box) for name, box in halves.items()),
        method=Regional(),
        seeds=(1,),
        steps=10,
    )
    with Composer.load(device="cpu") as composer:
        prepared = composer.prepare(asked)
        seeing = Explainer(asked.method), Explainer(asked.method, looks=asked.steps)
        return [
            each.explanations(composer.latents(prepared, observer=each)[1])[0] for each in seeing
        ]


def test_a_few_looks_tell_what_all_steps_tell(told) -> None:
    few, all_of_them = told
    assert few.calls.rows < all_of_them.calls.rows == 2 * 2 * 10
    assert few.shares == pytest.approx(all_of_them.shares, abs=0.05)
    for one, other in zip(few.adapters, all_of_them.adapters, strict=True):
        assert one.bleed.outside == pytest.approx(other.bleed.outside, abs=0.05)


def test_regions_hold_most_of_the_effects(told) -> None:
    for adapter in told[0].adapters:
        assert adapter.words == f"{adapter.name} cat"
        assert adapter.bleed.even == 0.5 and adapter.bleed.outside < 0.5
