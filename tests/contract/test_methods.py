"""What every composition method must hold, whichever there are."""

from __future__ import annotations

import json

import pytest
import torch

from compose.errors import RequestError, UnknownMethodError
from compose.fusion import method, methods
from compose.fusion.merge import Merge
from compose.request import Request
from tests import engine

ALL = sorted(methods())


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scheduler", ["ddim", "dpm++"])
def test_finite_repeatable_and_different_from_the_base(paths, name, scheduler) -> None:
    composer = engine.composer()
    asked = engine.request(paths, [1.0, 0.5, 0.8], method(name)(), scheduler=scheduler)
    once, twice = engine.latents(composer, asked), engine.latents(composer, asked)
    assert torch.isfinite(once).all()
    assert torch.equal(once, twice)
    base = engine.latents(composer, engine.request([], [], Merge(), scheduler=scheduler))
    assert (once - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_zero_weights_give_the_base(paths, name) -> None:
    composer = engine.composer()
    asked = engine.request(paths, [0.0] * 3, method(name)())
    base = engine.latents(composer, engine.request([], [], Merge()))
    engine.assert_close(engine.latents(composer, asked), base)


@pytest.mark.parametrize("name", ALL)
def test_a_single_adapter_is_a_plain_adapter(paths, name) -> None:
    composer = engine.composer()
    got = engine.latents(composer, engine.request(paths[:1], [0.8], method(name)()))
    plain = engine.latents(composer, engine.request(paths[:1], [0.8], Merge()))
    engine.assert_close(got, plain)


@pytest.mark.parametrize("name", ALL)
def test_order_of_adapters_matters_only_where_the_method_says_so(paths, name) -> None:
    composer, chosen = engine.composer(), method(name)
    weights = [1.0, 0.5, 0.8]
    one = engine.latents(composer, engine.request(paths, weights, chosen()))
    other = engine.latents(composer, engine.request(paths[::-1], weights[::-1], chosen()))
    if chosen.order_free:
        engine.assert_close(one, other, 1e-4)
    else:
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("budget", [1, 3])
def test_a_row_budget_changes_the_calls_and_not_the_picture(paths, name, budget) -> None:
    asked = engine.request(paths, [1.0, 0.5, 0.8], method(name)(), seeds=(1, 2))
    free, tight = engine.composer(), engine.composer(row_budget=budget)
    expected, run = free.latents(free.prepare(asked))
    got, split = tight.latents(tight.prepare(asked))
    engine.assert_close(got, expected)
    assert split.calls.rows == run.calls.rows
    assert max(len(r.rows) for r in split.trace) <= budget


@pytest.mark.parametrize("name", ALL)
def test_nothing_stays_behind_after_success_and_after_a_failure(paths, name) -> None:
    composer = engine.composer()
    modules = {n: dict(m.named_modules()) for n, m in composer.family.components.items()}
    prepared = composer.prepare(engine.request(paths, [1.0] * 3, method(name)()))
    composer.latents(prepared)

    def fail(done: int, total: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        composer.latents(prepared, each=fail)
    assert all(slot.gate is None for slot in composer.slots.values())
    composer.close()
    assert {n: dict(m.named_modules()) for n, m in composer.family.components.items()} == modules


@pytest.mark.parametrize("name", ALL)
def test_a_request_survives_json(paths, name) -> None:
    asked = engine.request(paths, [1.0, 0.5, 0.8], method(name)(), seeds=(1, 2))
    assert Request.from_json(json.loads(json.dumps(asked.to_json()))) == asked


@pytest.mark.parametrize("name", ALL)
def test_a_method_explains_itself(name) -> None:
    chosen = method(name)
    assert chosen.title and chosen.source.startswith("https://") and chosen.__doc__
    for p in chosen.params():
        assert p.help and p.type in ("float", "int", "bool", "str")
        assert bool(p.choices) == (p.type == "str")
        assert p.check(p.default) == p.default
        if p.type in ("float", "int") and p.high is not None:
            with pytest.raises(RequestError):
                chosen(**{p.name: p.high + 1})


def test_the_default_comes_first_and_unknown_names_get_a_hint() -> None:
    assert next(iter(methods())) == "merge"
    with pytest.raises(UnknownMethodError, match="did you mean switch"):
        method("swich")
