"""LoRA Switch: what the denoiser saw, not what a list says."""

from __future__ import annotations

import pytest
import torch

from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from tests import engine


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"))


def seen(paths, method: Switch, steps: int) -> list[int]:
    """Which adapter every denoiser call had on, from the trace of a run."""
    composer = engine.composer()
    prepared = composer.prepare(engine.request(paths, [0.5, 0.7, 0.9], method, steps=steps))
    _, run = composer.latents(prepared)
    out = []
    for record in run.trace:
        assert record.rows == ("uncond", "cond")
        assert record.weights[0] == record.weights[1]
        on = [k for k, w in enumerate(record.weights[0]) if w]
        assert len(on) == 1  # the shares of a step add up to one
        assert record.weights[0][on[0]] == pytest.approx((0.5, 0.7, 0.9)[on[0]])
        out += on
    return out


def test_paper_turns_have_equal_length(paths) -> None:
    # active(t) = floor(((t - 1) mod K tau) / tau) + 1, t from 1 (section 3.2)
    expected = [((t - 1) % (3 * 2)) // 2 for t in range(1, 12)]
    assert seen(paths, Switch(every=2), 11) == expected


def test_reference_first_turn_is_one_step_longer(paths) -> None:
    # a callback after step i switches when i > 0 and i % tau == 0
    active, expected = 0, []
    for i in range(11):
        expected.append(active)
        if i > 0 and i % 2 == 0:
            active = (active + 1) % 3
    got = seen(paths, Switch(every=2, convention="reference"), 11)
    assert got == expected
    assert got != seen(paths, Switch(every=2), 11)


def test_a_turn_longer_than_the_run_is_the_first_adapter_alone(paths) -> None:
    composer = engine.composer()
    switched = engine.request(paths, [0.5, 0.7, 0.9], Switch(every=4), steps=4)
    alone = engine.request(paths[:1], [0.5], Merge(), steps=4)
    engine.assert_close(engine.latents(composer, switched), engine.latents(composer, alone))


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_equals_switching_merged_models_by_hand(paths, scheduler) -> None:
    """Multistep solvers keep history across a turn: the hand-written loop does so too."""
    from compose.adapters.formats import load_adapter

    composer = engine.composer()
    asked = engine.request(paths[:2], [1.0, 0.6], Switch(every=1), scheduler=scheduler)
    got = engine.latents(composer, asked)
    composer.close()
    pipe = composer.family.pipe
    base = {
        n: {k: v.clone() for k, v in getattr(pipe, n).state_dict().items()}
        for n in ("unet", "text_encoder")
    }
    adapters = [load_adapter(p, composer.family.components)[0] for p in paths[:2]]

    def only(k: int, weight: float) -> None:
        for name, state in base.items():
            getattr(pipe, name).load_state_dict(state)
        for site, factors in adapters[k].factors.items():
            component, _, module = site.partition(".")
            target = getattr(pipe, component).get_submodule(module)
            target.weight.data += weight * factors.delta().reshape(target.weight.shape)

    schedule = composer.family.schedule(asked.steps, scheduler)
    x = composer.family.latents(engine.SIZE, schedule, [torch.Generator().manual_seed(3)])
    with torch.no_grad():
        for index, t in enumerate(schedule.timesteps):
            only(index % 2, (1.0, 0.6)[index % 2])
            cond, uncond = pipe.encode_prompt(asked.prompt, "cpu", 1, True, asked.negative)
            rows = schedule.scheduler.scale_model_input(torch.cat([x, x]), t)
            u, c = pipe.unet(rows, t, encoder_hidden_states=torch.cat([uncond, cond]))[0].chunk(2)
            x = schedule.scheduler.step(u + 5.0 * (c - u), t, x)[0]
    engine.assert_close(got, x)
