"""What every composition method must hold, whichever there are, on every family."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from compose.attention.layers import cross_layers
from compose.composer import Composer
from compose.errors import RequestError, UnknownMethodError
from compose.explain import Explainer
from compose.fusion import method, methods
from compose.fusion.merge import Merge
from compose.request import Request
from tests import engine
from tests.families import FAMILIES, TinyFamily

PRODUCTS = ["switch*regional", "tara*regional", "w_switch*tara*regional"]
cross = cross_layers()
ALL = [*sorted(methods()), *PRODUCTS]
WEIGHTS = [1.0, 0.5, 0.8]


@dataclass(frozen=True)
class Setup:
    """A family with its pipeline and three adapters."""

    family: TinyFamily
    pipe: DiffusionPipeline
    paths: list[Path]
    made: list[Composer] = field(default_factory=list)

    def composer(self, **options: Any) -> Composer:
        """A fresh one; the one before is closed, since they share the pipeline."""
        self.close()
        self.made.append(engine.composer(pipe=self.pipe, **options))
        return self.made[-1]

    def close(self) -> None:
        while self.made:
            self.made.pop().close()

    def serves(self, name: str) -> bool:
        """Whether the family has what a method cannot do without."""
        if "streams" not in method(name).needs:
            return True
        family = self.composer().family
        widths = {m.to_k.in_features for s, m in family.attention_layers().items() if cross(s)}
        return widths == {family.encode(["a cat"]).embeds.shape[-1]}

    def base(self, **more: Any) -> Request:
        return self.family.request([], [], Merge(), **more)

    def asked(
        self, name: str, weights: Sequence[float] = WEIGHTS, *, backwards: bool = False, **more: Any
    ) -> Request:
        order = -1 if backwards else 1
        paths = self.paths[: len(weights)][::order]
        return self.family.request(paths, weights[::order], method(name)(), **more)


@pytest.fixture(scope="module", params=FAMILIES)
def shared(request, tmp_path_factory) -> Setup:
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return Setup(family, family.build(), family.files(folder))


@pytest.fixture
def tiny(shared, request) -> Iterator[Setup]:
    if not shared.serves(request.node.callspec.params["name"]):
        pytest.skip("refused, which has a test of its own")
    yield shared
    shared.close()


@pytest.mark.parametrize("name", ALL)
def test_a_family_that_a_method_cannot_serve_is_refused_in_words(shared, name) -> None:
    served = shared.serves(name)
    composer = shared.composer()
    if served:
        composer.prepare(shared.asked(name))
        return
    with pytest.raises(RequestError, match=f"method {name} .* expected"):
        composer.prepare(shared.asked(name))


@pytest.mark.parametrize("name", ALL)
def test_finite_repeatable_and_different_from_the_base(tiny, name) -> None:
    for scheduler in ("euler", "dpm++"):
        composer = tiny.composer()
        if scheduler not in composer.family.schedulers:
            continue
        once, twice = (
            engine.latents(composer, tiny.asked(name, scheduler=scheduler)) for _ in range(2)
        )
        assert torch.isfinite(once).all()
        assert torch.equal(once, twice)
        base = engine.latents(composer, tiny.base(scheduler=scheduler))
        assert (once - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_zero_weights_give_the_base(tiny, name) -> None:
    composer = tiny.composer()
    got = engine.latents(composer, tiny.asked(name, [0.0] * 3))
    engine.assert_close(got, engine.latents(composer, tiny.base()))


@pytest.mark.parametrize("name", ALL)
def test_a_single_adapter_is_plain_where_the_method_says_so(tiny, name) -> None:
    composer = tiny.composer()
    everywhere = {"a0": engine.EVERYWHERE}
    got = engine.latents(composer, tiny.asked(name, [0.8], regions=everywhere))
    plain = engine.latents(composer, tiny.asked("merge", [0.8]))
    if method(name).plain_alone:
        engine.assert_close(got, plain)
    else:
        assert (got - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_order_of_adapters_matters_only_where_the_method_says_so(tiny, name) -> None:
    composer = tiny.composer()
    one, other = (
        engine.latents(composer, tiny.asked(name, backwards=back)) for back in (False, True)
    )
    if method(name).order_free:
        engine.assert_close(one, other, 1e-4)
    else:
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_a_row_budget_changes_the_calls_and_not_the_picture(tiny, name) -> None:
    asked = tiny.asked(name, seeds=(1, 2))
    free = tiny.composer()
    expected, run = free.latents(free.prepare(asked))
    for budget in (1, 3):
        tight = tiny.composer(row_budget=budget)
        got, split = tight.latents(tight.prepare(asked))
        engine.assert_close(got, expected)
        assert split.calls.rows == run.calls.rows
        assert max(len(r.rows) for r in split.trace) <= budget


@pytest.mark.parametrize("name", ALL)
def test_nothing_stays_behind_after_success_and_after_a_failure(tiny, name) -> None:
    composer = tiny.composer()
    modules = {n: dict(m.named_modules()) for n, m in composer.family.components.items()}
    prepared = composer.prepare(tiny.asked(name, [1.0] * 3))
    composer.latents(prepared)

    def fail(done: int, total: int, latents: torch.Tensor) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        composer.latents(prepared, each=fail)
    assert all(slot.gate is None for slot in composer.slots.values())
    composer.close()
    assert {n: dict(m.named_modules()) for n, m in composer.family.components.items()} == modules


@pytest.mark.parametrize("name", ALL)
def test_explaining_changes_no_bit_and_its_cost_is_told(tiny, name) -> None:
    composer, asked = tiny.composer(), tiny.asked(name, steps=3)
    prepared, explainer = composer.prepare(asked), Explainer(asked.method)
    plain, quiet = composer.latents(prepared)
    latents, run = composer.latents(prepared, observer=explainer)
    assert torch.equal(latents, plain)
    own = [record for record in run.trace if " without " not in record.rows[0]]
    assert own == quiet.trace
    told = explainer.explanations(run)[0]
    for count, before in asdict(quiet.calls).items():
        assert getattr(told.calls, count) == getattr(run.calls, count) - before
    assert told.calls.forwards == len(run.trace) - len(own) > 0
    assert sum(told.shares) == pytest.approx(1.0) and all(a.words for a in told.adapters if a.acted)
    assert all(a.effect.isfinite().all() for a in told.adapters)


@pytest.mark.parametrize("name", ALL)
def test_a_request_survives_json(name) -> None:
    paths = [Path("a.safetensors"), Path("b.safetensors")]
    asked = engine.request(paths, [1.0, 0.5], method(name)(), seeds=(1, 2))
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
