"""Products of methods: gates multiply, weights count once, what makes no sense is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from compose.errors import RequestError, UnknownMethodError
from compose.fusion import method
from compose.fusion.regional import Regional
from compose.fusion.switch import Switch
from compose.fusion.tara import Tara
from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.product import product
from compose.regions import Box
from compose.request import Request
from compose.run import Run
from compose.types import Step
from tests import engine

WEIGHTS = (0.5, -2.0, 0.8)
REGIONS = {"a0": Box(0, 0, 0.5, 1), "a1": Box(0.5, 0, 1, 1)}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine.files(tmp_path_factory.mktemp("adapters"))


def ready(paths: Sequence[Path], chosen: Any, **more: Any) -> Run:
    """A run that is prepared, on one composer for all."""
    composer = engine.composer()
    asked = engine.request(paths, WEIGHTS, chosen, regions=REGIONS, **more)
    prepared = composer.prepare(asked)
    run = composer._run(prepared.request, prepared.adapters, (1, 2))
    run.state = chosen.prepare(run)
    return run


def test_the_gates_multiply_and_weights_count_once(paths) -> None:
    both = method("tara*regional*switch").parse({"switch.every": "1", "regional.overlap": "sum"})
    run = ready(paths, both)
    for index in range(4):
        step = run.schedule.step(index)
        uncond, cond = both.passes(run, step)
        assert uncond.gate is cond.gate
        turn = torch.eye(3)[index % 3]
        torch.testing.assert_close(cond.gate.weight, (torch.tensor(WEIGHTS) * turn).expand(2, -1))
        tara, regional = Tara().prepare(run), Regional(overlap="sum").masks(run)
        assert torch.equal(cond.gate.text, tara)
        assert torch.equal(cond.gate.image, regional.expand(2, -1, -1, -1))


def test_the_order_of_the_parts_makes_no_difference(paths) -> None:
    pictures = []
    for name in ("tara*regional", "regional*tara"):
        composer = engine.composer()
        asked = engine.request(paths, WEIGHTS, method(name)(), regions=REGIONS)
        pictures.append(engine.latents(composer, asked))
    engine.assert_close(*pictures, 1e-6)


def test_in_text_the_method_of_words_has_the_say(paths) -> None:
    run = ready(paths, method("tara*regional")())
    step = run.schedule.step(0)
    (gate,) = {p.gate for p in method("tara*regional")().passes(run, step)}
    assert torch.equal(gate.text, Tara().prepare(run))
    seen = method("tara*regional").parse({"regional.text": "places"})
    run = ready(paths, seen)
    (gate,) = {p.gate for p in seen.passes(run, step)}
    assert torch.equal(gate.text, Tara().prepare(run))
    assert torch.equal(gate.queries, Regional().masks(run).expand(2, -1, -1, -1))
    placed = method("switch*regional")()
    run = ready(paths, placed)
    (gate,) = {p.gate for p in placed.passes(run, step)}
    assert gate.text is not None and gate.text[0, :, :2].abs().max() == 0


def test_a_strict_part_stays_strict(paths) -> None:
    strict = method("tara*regional").parse({"tara.scope": "strict"})
    run = ready(paths, strict)
    gate = strict.passes(run, run.schedule.step(0))[0].gate
    assert gate.image is not None and gate.image.abs().max() == 0


def test_text_encoder_shares_multiply_and_each_part_has_a_state_of_its_own(paths) -> None:
    both = method("w_switch*regional").parse({"w_switch.every": 1, "w_switch.final": 0})
    run = ready(paths, both)
    turns, masks = run.state
    assert len(turns) == 4 and isinstance(masks, Gate)
    for index in range(4):
        step = run.schedule.step(index)
        assert both.shares(run, step) == [float(k == turns[index]) for k in range(3)]
    alone = method("w_switch")(every=1, final=0)
    assert alone.prepare(replace(run, weights=WEIGHTS)) == turns


def test_a_negative_prompt_that_one_part_leaves_alone_is_left_alone(paths) -> None:
    for name, off in (("tara.uncond", True), ("regional.uncond", True), ("regional.feather", None)):
        both = method("tara*regional").parse({name: False if off else 0.1})
        run = ready(paths, both)
        uncond, cond = both.passes(run, run.schedule.step(0))
        assert bool(uncond.gate.active) is (not off) and cond.gate.active


@dataclass(frozen=True, kw_only=True)
class Drift(GatedMethod):
    """Remembers as it goes."""

    name: ClassVar[str] = "drift"
    title: ClassVar[str] = "Drift"
    source: ClassVar[str] = "https://example.org"
    chooses: ClassVar[str] = "luck"

    by: float = param(1.0, "how far")

    def prepare(self, run: Run) -> float:
        return 0.0

    def gate(self, run: Run, step: Step) -> Gate:
        run.state += self.by
        return Gate.all(run.scaled([run.state] * 3))


class Edits(Drift):
    def adjust(self, run: Run, step: Step, latents: torch.Tensor) -> torch.Tensor:
        return latents


def test_parts_may_change_what_they_remember(paths) -> None:
    both = product(Drift, Switch)(**{"drift.by": 2.0})
    run = ready(paths, both)
    step = run.schedule.step(0)
    for state in (2.0, 4.0):
        got = both.gate(run, step).weight
        torch.testing.assert_close(got, torch.tensor([[0.5 * state, 0, 0]]))
        assert run.state == [state, None]
    with pytest.raises(RequestError, match="drift was given in a product, but it is more than"):
        product(Tara, Edits)


def test_a_part_refuses_what_it_refuses_alone(paths) -> None:
    asked = engine.request(paths, WEIGHTS, method("tara*regional")(), regions=REGIONS)
    composer = engine.composer()
    for other, says in (
        (replace(asked, prompt="a cat"), "adapter a0 is not called"),
        (replace(asked, adapters=()), "needs to know where"),
        (engine.request(paths, WEIGHTS, method("w_switch*regional")(), {}), "needs to know where"),
    ):
        with pytest.raises(RequestError, match=says):
            composer.prepare(other)
    quiet = engine.request(paths, WEIGHTS, method("w_switch*regional")(), regions=REGIONS)
    with pytest.raises(RequestError, match="method w_switch needs the trigger words"):
        composer.prepare(replace(quiet, prompt="a cat"))


def test_fields_are_called_by_part_and_survive_json_and_pickle() -> None:
    kind = method("tara*regional")
    assert method("tara*regional") is kind and kind.name == "tara*regional"
    names = [p.name for p in kind.params()]
    assert names[0] == "tara.uncond" and "regional.overlap" in names
    chosen = kind.parse({"tara.words": "class", "regional.feather": "0.1", "tara.uncond": "no"})
    tara, regional = chosen.parts
    assert tara == Tara(words="class", uncond=False) and regional == Regional(feather=0.1)
    assert pickle.loads(pickle.dumps(chosen)) == chosen != kind() and hash(chosen)
    asked = Request("a cat", method=chosen)
    assert Request.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    assert kind.needs == {"prompt", "spans", "regions"} and kind.minimum == 1 and kind.order_free
    assert not method("switch*regional").order_free and not kind.plain_alone


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("switch*w_switch", "switch and w_switch .* both choose adapters by time"),
        ("tara*regional*tara", "tara and tara .* both choose adapters by words"),
        ("tara*composite", "composite was given in a product, but it is more than a gate"),
        ("merge*tara", "merge was given in a product, where it changes nothing"),
    ],
)
def test_products_that_make_no_sense_are_refused(name: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        method(name)


def test_bad_names_and_fields_get_a_hint() -> None:
    with pytest.raises(UnknownMethodError, match="unknown method 'regionl'; did you mean regional"):
        method("tara*regionl")
    with pytest.raises(UnknownMethodError, match="unknown method ''"):
        method("tara*")
    kind = method("tara*regional")
    with pytest.raises(RequestError, match=r"has no field 'scope'; did you mean tara.scope"):
        kind.parse({"scope": "strict"})
    with pytest.raises(RequestError, match=r"overlap=most is none of average"):
        kind.parse({"regional.overlap": "most"})
    with pytest.raises(TypeError, match="has no field scope"):
        kind(scope="strict")
