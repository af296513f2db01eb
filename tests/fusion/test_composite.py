"""LoRA Composite: the invariants of averaging predictions."""

from __future__ import annotations

import shutil

import pytest
import torch

from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.guidance import cfg
from tests import engine


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4))


@pytest.mark.parametrize("count", [2, 3])
def test_identical_adapters_equal_one(paths, tmp_path, count) -> None:
    copies = []
    for k in range(count):
        copies.append(tmp_path / f"copy{k}.safetensors")
        shutil.copy(paths[0], copies[-1])
    composer = engine.composer(torch.float64)
    many = engine.latents(composer, engine.request(copies, [0.8] * count, Composite()))
    one = engine.latents(composer, engine.request(paths[:1], [0.8], Merge()))
    engine.assert_close(many, one, 1e-9)


def test_to_first_order_it_is_a_merge_of_shares_and_beyond_that_it_is_not(paths) -> None:
    """|composite(s) - merge(s / K)| falls with the square of s; at s = 1 it is far from zero."""
    composer = engine.composer(torch.float64)

    def gap(s: float) -> float:
        one_step = {"steps": 1, "guidance": 1.0}
        a = engine.latents(composer, engine.request(paths, [s, s], Composite(), **one_step))
        b = engine.latents(composer, engine.request(paths, [s / 2, s / 2], Merge(), **one_step))
        return float((a - b).norm())

    assert gap(0.02) / gap(0.01) == pytest.approx(4.0, abs=0.2)
    assert gap(1.0) > 1e-3


def test_guidance_off_still_averages(paths) -> None:
    composer = engine.composer()
    asked = engine.request(paths, [1.0, 1.0], Composite(), guidance=1.0)
    got, run = composer.latents(composer.prepare(asked))
    assert run.calls.rows == 2 * asked.steps
    assert [r.rows for r in run.trace] == [("cond/0", "cond/1")] * asked.steps
    last = engine.latents(composer, engine.request(paths[1:], [1.0], Merge(), guidance=1.0))
    assert (got - last).abs().max() > 1e-3  # not just the last adapter's


def test_mean_then_guidance_equals_guidance_then_mean() -> None:
    u, c = torch.randn(2, 3, 1, 4, 4, 4, dtype=torch.float64).unbind(0)
    a = cfg(u.mean(0), c.mean(0), 7.5)
    engine.assert_close(a, torch.stack([cfg(x, y, 7.5) for x, y in zip(u, c, strict=True)]).mean(0))


def test_every_row_sees_its_own_adapter_alone(paths) -> None:
    composer = engine.composer()
    _, run = composer.latents(
        composer.prepare(engine.request(paths, [0.5, 0.25], Composite(), steps=2))
    )
    for record in run.trace:
        assert record.rows == ("uncond/0", "cond/0", "uncond/1", "cond/1")
        assert record.weights == ((0.5, 0.0), (0.5, 0.0), (0.0, 0.25), (0.0, 0.25))
