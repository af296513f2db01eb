"""W-Switch: turns as long as the prompt makes each adapter important."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import RequestError
from compose.fusion.switch import Switch
from compose.fusion.w_switch import WSwitch, influence, turns
from tests import engine


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"))


def run_of(paths, method: WSwitch, **more):
    composer = engine.composer()
    prepared = composer.prepare(engine.request(paths, [0.5, 0.7, 0.9], method, **more))
    return composer.latents(prepared)[1]


def test_turns_by_hand() -> None:
    # a cycle of 3 x 4 = 12: one step each, 9 shared as 4.5, 2.25, 2.25, the half by remainder
    assert turns(torch.tensor([2.0, 1.0, 1.0]), 12, 4, 0, None) == (0,) * 6 + (1,) * 3 + (2,) * 3
    # equal importance is an ordinary switch
    assert turns(torch.ones(2), 8, 2, 0, None) == (0, 0, 1, 1, 0, 0, 1, 1)
    # no trigger matters: equal turns as well
    assert turns(torch.zeros(2), 4, 2, 0, None) == (0, 0, 1, 1)
    # a trigger without importance still gets one step of every cycle
    assert turns(torch.tensor([1.0, 0.0]), 8, 2, 0, None) == (0, 0, 0, 1, 0, 0, 0, 1)
    # the last two steps are the second adapter's; the cycle fits into what is left
    assert turns(torch.ones(2), 6, 5, 2, 1) == (0, 0, 1, 1, 1, 1)
    # too few steps for everything: the end gives way first
    assert turns(torch.ones(3), 3, 5, 5, 0) == (0, 1, 2)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(0, 9),
    st.booleans(),
)
def test_turns_hold_for_any_numbers(importance, total, every, final, ends) -> None:
    last = 0 if ends else None
    got = turns(torch.tensor(importance), total, every, final, last)
    assert len(got) == total
    if total >= len(importance):
        assert set(got) == set(range(len(importance)))  # everybody has a turn
    if ends:
        assert set(got[total - min(final, max(total - len(importance), 0)) :]) <= {0}
    counts = [got.count(k) for k in range(len(importance))]
    cycle = every * len(importance)
    if not ends and total % cycle == 0:  # whole cycles: more important, no fewer steps
        for a, more in zip(importance, counts, strict=True):
            for b, fewer in zip(importance, counts, strict=True):
                assert a <= b or more >= fewer


def test_the_denoiser_sees_one_adapter_a_step_as_planned(paths) -> None:
    run = run_of(paths, WSwitch(every=3, final=0), steps=9)
    on = []
    for record in run.trace:
        active = [k for k, w in enumerate(record.weights[0]) if w]
        assert len(active) == 1 and record.weights[0] == record.weights[1]
        assert record.weights[0][active[0]] == pytest.approx((0.5, 0.7, 0.9)[active[0]])
        on += active
    assert tuple(on) == run.state
    assert sorted(set(on)) == [0, 1, 2]


def test_importance_is_how_far_the_prompt_moves_without_the_trigger(paths) -> None:
    composer = engine.composer()
    asked = engine.request(paths, [0.5, 0.7, 0.9], WSwitch())
    prepared = composer.prepare(asked)
    with torch.no_grad():
        composer._install(prepared.adapters)
        run = composer._run(prepared.request, prepared.adapters, (0,))
        got = influence(run)

        def mean(prompt: str) -> torch.Tensor:
            return run.encode([prompt], (0.5, 0.7, 0.9)).embeds.double().mean(dim=1)[0]

        whole = mean("mochi cat and biscuit dog, sunvo style")
        bare = [
            mean("cat and biscuit dog, sunvo style"),
            mean("mochi cat and dog, sunvo style"),
            mean("mochi cat and biscuit dog, style"),
        ]
    expected = [1 - float(whole @ b / (whole.norm() * b.norm())) for b in bare]
    assert got.tolist() == pytest.approx(expected, rel=1e-9)
    assert min(expected) > 1e-6  # the words matter


def test_equal_importance_without_a_character_is_switch(paths, monkeypatch) -> None:
    monkeypatch.setattr("compose.fusion.w_switch.influence", lambda run: torch.ones(3))
    composer = engine.composer()
    one, other = (
        engine.latents(composer, engine.request(paths, [0.5, 0.7, 0.9], m, steps=6))
        for m in (WSwitch(every=2), Switch(every=2))
    )
    assert torch.equal(one, other)


def test_the_character_has_the_last_steps(tmp_path) -> None:
    told = {"lora_compose": '{"format": 1, "category": "character", "triggers": ["biscuit"]}'}
    plain = engine.files(tmp_path / "a", ranks=(2,))
    second = engine.files(tmp_path / "b", ranks=(4,), seed=9, trigger=None, metadata=told)
    paths = [*plain, second[0].rename(tmp_path / "biscuit.safetensors")]
    composer = engine.composer()
    prepared = composer.prepare(engine.request(paths, [1.0, 1.0], WSwitch(final=3), steps=8))
    run = composer.latents(prepared)[1]
    assert run.state[-3:] == (1, 1, 1) and 0 in run.state[:-3]


def test_an_adapter_whose_trigger_is_not_in_the_prompt_is_refused(tmp_path) -> None:
    paths = engine.files(tmp_path, ranks=(2,), trigger="bolt")
    with pytest.raises(RequestError, match="a0 in the prompt; its triggers: 'bolt'"):
        engine.composer().prepare(engine.request(paths, [1.0], WSwitch()))
    nameless = engine.files(tmp_path, ranks=(2,), trigger=None)
    with pytest.raises(RequestError, match="none that is known"):
        engine.composer().prepare(engine.request(nameless, [1.0], WSwitch()))
