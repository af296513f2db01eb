"""The engine against the stock pipeline, merged weights and PEFT."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch

from compose.adapters.formats import load_adapter
from compose.errors import RequestError
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from compose.gate import Gate
from compose.layers import GatedLoraLayer
from compose.request import Request
from compose.types import Size
from tests import engine

SCHEDULERS = (None, "ddim", "euler", "dpm++")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine.files(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_zero_weights_are_bit_equal_to_the_stock_pipeline(paths, scheduler, guidance) -> None:
    composer = engine.composer()
    asked = engine.request(paths, [0.0] * 3, Merge(), scheduler=scheduler, guidance=guidance)
    expected = engine.stock(composer.family.pipe, asked, "pil")
    with composer:
        got = composer.generate(asked).images[0].image
        assert any(isinstance(m, GatedLoraLayer) for m in composer.family.denoiser.modules())
        assert got.size == (48, 32)
        assert got.tobytes() == expected.tobytes()
        # installed layers do not disturb the stock pipeline either
        assert engine.stock(composer.family.pipe, asked, "pil").tobytes() == expected.tobytes()


def test_no_adapters_at_all_is_the_stock_pipeline() -> None:
    composer = engine.composer()
    asked = engine.request([], [], Merge())
    assert torch.equal(engine.latents(composer, asked), engine.stock(composer.family.pipe, asked))


@pytest.mark.parametrize("scheduler", SCHEDULERS[1:])
def test_merge_equals_merged_weights(paths, scheduler) -> None:
    composer, weights = engine.composer(), [0.8, -0.5, 0.6]
    asked = engine.request(paths, weights, Merge(), scheduler=scheduler)
    expected = engine.stock(engine.merged_pipeline(composer, paths, weights), asked)
    plain = engine.stock(composer.family.pipe, asked)
    got = engine.latents(composer, asked)
    assert (got - plain).abs().max() > 0.05  # the adapters do something
    engine.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_merge_equals_peft(tmp_path) -> None:
    pytest.importorskip("peft")
    paths = engine.files(tmp_path, layout="diffusers")
    weights = [0.9, 0.4, -0.7]
    composer = engine.composer()
    asked = engine.request(paths, weights, Merge())
    pipe = copy.deepcopy(composer.family.pipe)
    for k, path in enumerate(paths):
        pipe.load_lora_weights(str(path), adapter_name=f"a{k}")
    pipe.set_adapters([f"a{k}" for k in range(3)], weights)
    engine.assert_close(engine.latents(composer, asked), engine.stock(pipe, asked))


def test_a_text_encoder_weight_of_its_own(paths) -> None:
    composer = engine.composer()
    asked = engine.request(paths[:1], [0.7], Merge())
    silent = Request.from_json(
        {
            **asked.to_json(),
            "adapters": [{"name": str(paths[0]), "weight": 0.7, "text_weight": 0.0}],
        }
    )
    full, unet_only = engine.latents(composer, asked), engine.latents(composer, silent)
    assert (full - unet_only).abs().max() > 1e-4
    adapter, _ = load_adapter(paths[0], composer._bare_components())
    pipe = copy.deepcopy(composer.family.pipe)
    for site, factors in adapter.factors.items():
        component, _, module = site.partition(".")
        if component == "unet":
            target = pipe.unet.get_submodule(module)
            target.weight.data += 0.7 * factors.delta().reshape(target.weight.shape)
    engine.assert_close(unet_only, engine.stock(pipe, silent))


@pytest.mark.parametrize("scheduler", SCHEDULERS[1:])
def test_composite_in_one_call_equals_separate_calls(paths, scheduler) -> None:
    asked = engine.request(paths, [1.0, 0.5, 0.8], Composite(), scheduler=scheduler)
    together, apart = engine.composer(), engine.composer(row_budget=1)
    one, run = together.latents(together.prepare(asked))
    many, split = apart.latents(apart.prepare(asked))
    engine.assert_close(one, many)
    assert (run.calls.forwards, run.calls.rows) == (4, 24)
    assert (split.calls.forwards, split.calls.rows) == (24, 24)


def test_composite_equals_three_merged_models_averaged_by_hand(paths) -> None:
    """Every adapter merged into a pipeline of its own; predictions averaged, then guidance."""
    composer, weights = engine.composer(), [1.0, 0.5, 0.8]
    asked = engine.request(paths, weights, Composite())
    got = engine.latents(composer, asked)
    composer.close()
    pipes = [
        engine.merged_pipeline(composer, [p], [w]) for p, w in zip(paths, weights, strict=True)
    ]
    schedule = composer.family.schedule(asked.steps, None)
    x = composer.family.latents(engine.SIZE, schedule, [torch.Generator().manual_seed(3)])
    with torch.no_grad():
        texts = [p.encode_prompt(asked.prompt, "cpu", 1, True, asked.negative) for p in pipes]
        for t in schedule.timesteps:
            cond, uncond = (
                torch.stack(
                    [
                        p.unet(x, t, encoder_hidden_states=texts[k][side])[0]
                        for k, p in enumerate(pipes)
                    ]
                ).mean(0)
                for side in (0, 1)
            )
            x = schedule.scheduler.step(uncond + 5.0 * (cond - uncond), t, x)[0]
    engine.assert_close(got, x)


def test_images_side_by_side_are_as_if_alone(paths) -> None:
    composer = engine.composer()
    for method in (Merge(), Switch(every=1), Composite()):
        asked = engine.request(paths, [1.0, 0.5, 0.8], method, seeds=(3, 4))
        both = engine.latents(composer, asked)
        for row, seed in enumerate(asked.seeds):
            alone = engine.latents(
                composer, engine.request(paths, [1.0, 0.5, 0.8], method, seeds=(seed,))
            )
            engine.assert_close(both[row], alone[0])


def test_rows_with_masks_of_their_own_are_as_if_alone(paths) -> None:
    """Different images of a batch with different token and region gates; no state leaks between
    them or calls.
    """
    composer = engine.composer()
    prepared = composer.prepare(engine.request(paths, [1.0, 1.0, 1.0], Merge(), seeds=(1, 2)))
    g = torch.Generator().manual_seed(0)
    gate = Gate(
        torch.rand(2, 3, generator=g),
        text=torch.rand(2, composer.family.pipe.tokenizer.model_max_length, 3, generator=g),
        image=torch.rand(2, 3, 32, 48, generator=g),
    )
    composer._install(prepared.adapters)
    run = composer._run(prepared.request, prepared.adapters, (1, 2))
    step = run.schedule.step(0)
    x = torch.randn(2, 4, 16, 24, generator=g)

    def predict(latents: torch.Tensor, rows: Gate, images: int) -> torch.Tensor:
        one = composer._run(prepared.request, prepared.adapters, (1,) * images)
        with torch.no_grad():
            return one.predict(latents, step, one.guided_passes("", rows, [1.0] * 3))["cond"]

    both = predict(x, gate, 2)
    alone = [predict(x[k : k + 1], gate.narrow(k, k + 1), 1)[0] for k in (0, 1)]
    engine.assert_close(both[0], alone[0])
    engine.assert_close(both[1], alone[1])
    assert torch.equal(predict(x, gate, 2), both)
    assert (both[0] - predict(x, gate.narrow(1, 2).expand(2), 2)[0]).abs().max() > 1e-4


def test_the_base_stays_bit_identical_through_a_hundred_requests(paths) -> None:
    composer, rng = engine.composer(), random.Random(0)
    parts = composer.family.components
    before = {f"{n}.{k}": v.clone() for n, m in parts.items() for k, v in m.state_dict().items()}
    modules = {n: dict(m.named_modules()) for n, m in parts.items()}
    methods = (Merge(), Merge(budget="mean"), Switch(every=1), Composite())
    for turn in range(100):
        some = rng.sample(paths, rng.randint(1, 3))
        asked = engine.request(
            some, [rng.uniform(-1, 1) for _ in some], rng.choice(methods), steps=1
        )
        prepared = composer.prepare(asked)
        if turn % 20 == 19:

            def fail(done: int, total: int, latents: torch.Tensor) -> None:
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                composer.latents(prepared, each=fail)
        else:
            composer.latents(prepared)
        assert all(slot.gate is None for slot in composer.slots.values())
    composer.close()
    after = {f"{n}.{k}": v for n, m in parts.items() for k, v in m.state_dict().items()}
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert {n: dict(m.named_modules()) for n, m in parts.items()} == modules


def test_nothing_leaks_from_one_request_into_the_next(paths) -> None:
    composer = engine.composer()
    first = engine.request(paths, [1.0, 1.0, 1.0], Switch(every=1))
    other = engine.request(
        paths[:2], [0.4, 0.9], Composite(), scheduler="dpm++", size=Size(32, 64), seeds=(8,)
    )
    before = engine.latents(composer, first)
    engine.latents(composer, other)
    assert torch.equal(engine.latents(composer, first), before)


def test_the_same_seed_gives_the_same_picture_alone_and_among_others(paths) -> None:
    composer = engine.composer()
    many = composer.generate(engine.request(paths, [1.0] * 3, Merge(), seeds=(1, 2, 3)))
    alone = composer.generate(engine.request(paths, [1.0] * 3, Merge(), seeds=(2,)))
    assert many.images[1].image.tobytes() == alone.images[0].image.tobytes()
    assert many.images[1].request == alone.images[0].request


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"size": Size(50, 32)}, "multiples of"),
        ({"size": Size(0, 32)}, "multiples of"),
        ({"scheduler": "eular"}, "did you mean euler"),
        ({"steps": 0}, "expected 1 to 1000"),
        ({"guidance": float("nan")}, "at least 0"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (-1,)}, "from 0 to"),
    ],
)
def test_requests_that_make_no_sense_are_refused(paths, more, says) -> None:
    with pytest.raises(RequestError, match=says):
        engine.composer().prepare(engine.request(paths, [1.0] * 3, Merge(), **more))


def test_methods_refuse_what_makes_no_sense_for_them(paths) -> None:
    composer = engine.composer()
    for method in (Switch(), Composite()):
        with pytest.raises(RequestError, match="expected at least 1"):
            composer.prepare(engine.request([], [], method))
    with pytest.raises(RequestError, match="budget=total cannot scale"):
        composer.prepare(engine.request(paths, [1.0, -1.0, 1.0], Merge(budget="total")))
    with pytest.raises(RequestError, match="finite"):
        engine.request(paths, [float("nan"), 1.0, 1.0], Merge())
    with pytest.raises(RequestError, match="given 2 times"):
        engine.request([paths[0], paths[0]], [1.0, 1.0], Merge())
