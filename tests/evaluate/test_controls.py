"""False adapters match the true ones in all but what they have learned."""

from __future__ import annotations

import pytest
import torch

from compose.adapters.adapter import Adapter, AdapterSet, Factors
from compose.evaluate.controls import random_adapters, shuffled_adapters, spectrum
from compose.evaluate.rows import controls, find_rows, method_rows, regions
from compose.fusion import methods
from compose.regions import Box
from tests.evaluate.known import case

SHAPES = {
    "unet.a": ((3, 20), (12, 3)),
    "unet.b": ((5, 20), (12, 5)),
    "unet.c": ((3, 20), (12, 3)),
    "unet.square": ((4, 12), (12, 4)),
    "unet.wide": ((9, 6), (7, 9)),  # more ranks than there are dimensions
    "unet.conv": ((4, 6, 3, 3), (8, 4)),
    "unet.conv2": ((2, 6, 3, 3), (8, 2)),
    "text_encoder.a": ((3, 20), (12, 3)),
}


def adapter(name: str, seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    factors = {
        site: Factors(torch.randn(down, generator=g), 0.1 * torch.randn(up, generator=g))
        for site, (down, up) in SHAPES.items()
    }
    return Adapter(name, factors, triggers=(name,), category="character")


TRUE = AdapterSet((adapter("one", 1), adapter("two", 2)))


def dense_spectrum(factors: Factors) -> torch.Tensor:
    return torch.linalg.svdvals(factors.delta().double().flatten(1))


def test_the_spectrum_without_the_dense_change() -> None:
    for factors in TRUE.adapters[0].factors.values():
        got, dense = spectrum(factors), dense_spectrum(factors)
        assert torch.allclose(got, dense[: len(got)], rtol=1e-6, atol=1e-8)
        assert float(dense[len(got) :].sum()) < 1e-6


@pytest.mark.parametrize("make", [random_adapters, shuffled_adapters])
def test_everything_but_the_changes_stays(make) -> None:
    false = make(TRUE, 3)
    assert false.names == TRUE.names
    for true, other in zip(TRUE, false, strict=True):
        assert (other.triggers, other.category) == (true.triggers, true.category)
        assert list(other.factors) == list(true.factors)
        assert all(
            other.factors[s].delta().shape == f.delta().shape for s, f in true.factors.items()
        )

    def changes(seed: int) -> list[torch.Tensor]:
        return [f.delta() for f in make(TRUE, seed).adapters[0].factors.values()]

    def equal(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
        return all(a.equal(b) for a, b in zip(one, two, strict=True))

    assert equal(changes(3), changes(3))
    assert not all(equal(changes(3), changes(seed)) for seed in range(4, 9))


def test_random_adapters_keep_rank_norm_and_spectrum() -> None:
    false = random_adapters(TRUE, 3)
    for true, other in zip(TRUE, false, strict=True):
        for site, factors in true.factors.items():
            drawn = other.factors[site]
            assert drawn.rank == factors.rank
            norm = float(factors.delta().norm())
            assert float(drawn.delta().norm()) == pytest.approx(norm, rel=1e-5)
            expected, got = dense_spectrum(factors), dense_spectrum(drawn)
            assert float((got - expected).abs().max()) <= 1e-5 * float(expected.max())


def test_random_adapters_have_other_directions() -> None:
    """The overlap of a random change with the true one is that of two random directions."""
    overlaps = []
    for seed in range(20):
        false = random_adapters(TRUE, seed)
        for true, other in zip(TRUE, false, strict=True):
            a, b = (x.factors["unet.a"].delta().flatten() for x in (true, other))
            overlaps.append(float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
    mean = sum(overlaps) / len(overlaps)
    spread = (sum(o * o for o in overlaps) / len(overlaps)) ** 0.5
    assert abs(mean) < 0.05 and 0.02 < spread < 0.15  # about 1 / sqrt(12 * 20)
    one, two = random_adapters(TRUE, 0)
    assert not torch.allclose(one.factors["unet.a"].down, one.factors["unet.c"].down)
    assert not torch.allclose(one.factors["unet.a"].down, two.factors["unet.a"].down)


def test_shuffled_adapters_hold_the_same_changes_elsewhere() -> None:
    false = shuffled_adapters(TRUE, 3)
    for true, other in zip(TRUE, false, strict=True):
        before, after = (sorted(id(f) for f in a.factors.values()) for a in (true, other))
        assert before == after
        stayed = {s for s in true.factors if other.factors[s] is true.factors[s]}
        assert stayed == {"unet.square", "unet.wide", "text_encoder.a"}  # alone in their shape
        assert other.factors["unet.conv"] is true.factors["unet.conv2"]


def test_rows_ask_for_the_same_noise_and_prompt_at_their_own_strength() -> None:
    asked = case("ember", "bolt", "wizzo", "candia")
    rows = {row.name: row.shots(asked, 5, 7) for row in (*controls(), *method_rows()[0])}
    (drawing,) = rows.pop("rendered")
    assert drawing.scene == asked.scene(5)
    for shots in rows.values():
        for shot in shots:
            assert shot.request.prompt == asked.prompt
            assert shot.request.seeds == (asked.noise(5),)
            assert shot.request.steps == 7
    used = {
        name: [[(a.name, a.weight) for a in shot.request.adapters] for shot in shots]
        for name, shots in rows.items()
    }
    assert used["alone"] == [[(name, 1.0)] for name in asked.adapters]
    assert used["prompt_only"] == [[]]
    strengths = {
        "merge": 1.0,
        "merge_mean": 0.25,
        "merge_root": 0.5,
        "random": 1.0,
        "shuffled": 1.0,
    }
    for name, weight in strengths.items():
        assert used[name] == [[(a, weight) for a in asked.adapters]]
        assert rows[name][0].request.method.name == "merge"
    for name in methods():
        assert used[name] == used["merge"]
        assert rows[name][0].request.method == methods()[name]()


def test_rows_are_found_by_name() -> None:
    names = [row.name for row in (*controls(), *method_rows()[0])]
    assert [row.name for row in find_rows(names)] == names
    assert [row.control for row in find_rows(["alone", "merge"])] == [True, False]


def test_things_side_by_side_get_a_strip_each() -> None:
    asked = case("ember", "bolt", "wizzo", "candia")
    boxes = dict(zip(asked.adapters, regions(asked), strict=True))
    assert boxes["wizzo"] is None and boxes["candia"] is None  # worn, and all around
    places = {
        p.adapter: asked.asked.expectation.things[p.thing].place for p in asked.asked.parts[:2]
    }
    halves = {"left": Box(0, 0, 0.5, 1), "right": Box(0.5, 0, 1, 1)}
    assert {name: boxes[name] for name in places} == {n: halves[p] for n, p in places.items()}
    (shot,) = {row.name: row.shots(asked, 5, 7) for row in method_rows(["regional"])[0]}["regional"]
    assert [use.region for use in shot.request.adapters] == regions(asked)
