"""Stable Diffusion 3 and FLUX against their stock pipelines, merged weights and PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compose.fusion.composite import Composite
from compose.fusion.switch import Switch
from compose.gate import Gate
from compose.layers import GatedLoraLayer
from compose.models.loading import load
from compose.types import Size
from tests import engine
from tests.models.joint import MODELS, Model, latents, stock

WEIGHTS = [0.8, -0.5, 0.6]


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


@pytest.fixture
def paths(model: Model, tmp_path: Path) -> list[Path]:
    return model.files(tmp_path)


@pytest.mark.parametrize("size", [Size(48, 32), Size(28, 44)])
def test_without_adapters_the_picture_is_the_stock_pipelines(model, size) -> None:
    composer, asked = model.composer(), model.request(size=size, true_cfg=None)
    expected = stock(composer.family.pipe, asked, "pil")
    got = composer.generate(asked).images[0].image
    assert got.size == (size.width, size.height)
    assert got.tobytes() == expected.tobytes()


def test_zero_weights_are_bit_equal_to_the_stock_pipeline(model, paths) -> None:
    composer, asked = model.composer(), model.request(paths, [0.0] * 3, true_cfg=None)
    expected = stock(composer.family.pipe, asked, "pil").tobytes()
    with composer:
        got = composer.generate(asked).images[0].image
        for part in composer.family.components.values():
            assert any(isinstance(m, GatedLoraLayer) for m in part.modules())
        assert got.tobytes() == expected
        # installed layers do not disturb the stock pipeline either
        assert stock(composer.family.pipe, asked, "pil").tobytes() == expected


def test_in_half_precision_too(model) -> None:
    """Steps enough that a timestep rounded later than the stock pipeline rounds it would show."""
    composer, asked = model.composer(), model.request(true_cfg=None, steps=9)
    pipe = composer.family.pipe
    for part in (*composer.family.components.values(), pipe.vae):
        torch.nn.Module.to(part, torch.bfloat16)
    expected = stock(pipe, asked)
    assert expected.dtype == torch.bfloat16 and torch.equal(latents(composer, asked), expected)


def test_merge_equals_merged_weights(model, paths) -> None:
    composer, asked = model.composer(), model.request(paths, WEIGHTS)
    merged = engine.merged_pipeline(composer, paths, WEIGHTS)
    plain = stock(composer.family.pipe, asked)
    got = latents(composer, asked)
    assert (got - plain).abs().max() > 0.05
    engine.assert_close(got, stock(merged, asked))


def test_every_part_of_the_model_takes_adapters(model, tmp_path) -> None:
    """One adapter for each component, so that none of them can hide behind the others."""
    composer = model.composer()
    plain = latents(composer, model.request(steps=2))
    for part in composer.family.components:
        paths = model.files(tmp_path, (3,), only=(part,))
        composer = model.composer()
        asked = model.request(paths, [1.0], steps=2)
        merged = engine.merged_pipeline(composer, paths, [1.0])
        got = latents(composer, asked)
        assert (got - plain).abs().max() > 1e-3, part
        engine.assert_close(got, stock(merged, asked))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
def test_merge_equals_peft(model, tmp_path) -> None:
    pytest.importorskip("peft")
    paths, weights = model.files(tmp_path, only=model.peft), [0.9, 0.4, -0.7]
    composer, asked = model.composer(), model.request(paths, weights)
    pipe = copy.deepcopy(composer.family.pipe)
    for k, path in enumerate(paths):
        pipe.load_lora_weights(str(path), adapter_name=f"a{k}")
    pipe.set_adapters([f"a{k}" for k in range(3)], weights)
    engine.assert_close(latents(composer, asked), stock(pipe, asked))


def test_composite_in_one_call_equals_separate_calls(model, paths) -> None:
    asked = model.request(paths, WEIGHTS, method=Composite())
    together, apart = model.composer(), model.composer(row_budget=1)
    one, run = together.latents(together.prepare(asked))
    many, split = apart.latents(apart.prepare(asked))
    engine.assert_close(one, many)
    rows = 24 if run.guided else 12
    assert (run.calls.forwards, run.calls.rows) == (4, rows)
    assert (split.calls.forwards, split.calls.rows) == (rows, rows)


def test_a_row_budget_changes_the_calls_and_not_the_picture(model, paths) -> None:
    asked = model.request(paths, WEIGHTS, method=Composite(), seeds=(3, 4), steps=2)
    free, tight = model.composer(), model.composer(row_budget=3)
    expected = latents(free, asked)
    got, run = tight.latents(tight.prepare(asked))
    engine.assert_close(got, expected)
    assert max(len(r.rows) for r in run.trace) <= 3


def test_pictures_side_by_side_are_as_if_alone(model, paths) -> None:
    composer = model.composer()
    for method in (Switch(every=1), Composite()):
        asked = model.request(paths, WEIGHTS, method=method, seeds=(3, 4), steps=2)
        both = latents(composer, asked)
        for row, seed in enumerate(asked.seeds):
            asked = replace(asked, seeds=(seed,))
            engine.assert_close(both[row], latents(composer, asked)[0])


def asker(model: Model, paths: list[Path]) -> Callable[..., Tensor]:
    """One step's prediction [rows, C, H, W] for latents, a gate and prompts of as many rows."""
    composer = model.composer()
    prepared = composer.prepare(model.request(paths, [1.0] * len(paths)))
    composer._install(prepared.adapters)

    def ask(x: Tensor, gate: Gate, prompts: tuple[str, ...]) -> Tensor:
        run = composer._run(prepared.request, prepared.adapters, (1,) * len(prompts))
        run = replace(run, prompts=prompts)
        passes = run.guided_passes("", gate, [1.0] * len(paths))
        with torch.no_grad():
            return run.predict(x, run.schedule.step(1), passes)["cond"]

    return ask


def masks(model: Model, rows: int = 2) -> Gate:
    """A gate of three adapters with token and region masks of their own in every row."""
    g = torch.Generator().manual_seed(0)
    text = model.composer().family.encode(["cat"]).embeds.shape[1]
    return Gate(
        torch.rand(rows, 3, generator=g),
        text=torch.rand(rows, text, 3, generator=g),
        image=torch.rand(rows, 3, 32, 48, generator=g),
    )


def test_rows_with_prompts_and_masks_of_their_own_are_as_if_alone(model, paths) -> None:
    ask, gate = asker(model, paths), masks(model)
    x = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    prompts = ("cat and dog", "a red zebra on the beach")
    both = ask(x, gate, prompts)
    for k in range(2):
        alone = ask(x[k : k + 1], gate.narrow(k, k + 1), prompts[k : k + 1])
        engine.assert_close(both[k], alone[0])
    assert torch.equal(ask(x, gate, prompts), both)
    for other in (
        ask(x, gate.narrow(1, 2).expand(2), prompts),
        ask(x, gate, prompts[1:] * 2),
    ):
        assert (both[0] - other[0]).abs().max() > 1e-3


def test_routers_and_combiners_see_the_same_axes_at_every_site(model, paths) -> None:
    """Also at modulations and embedders, whose input has no token axis."""
    ask, plain = asker(model, paths), Gate.all(WEIGHTS)
    x = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    prompts = ("cat and dog", "dog")
    seen = set()

    def router(site, inputs: Tensor) -> Tensor:
        tokens = inputs.flatten(2).transpose(1, 2) if site.kind == "conv" else inputs
        assert tokens.ndim == 3 and tokens.shape[0] in (2, 4), site
        seen.add(site.stream)
        return torch.full((tokens.shape[0], 1, 3), 2.0)

    def combiner(site, base: Tensor, deltas: Tensor) -> Tensor:
        assert deltas.shape[1:] == base.shape and base.ndim == (4 if site.kind == "conv" else 3)
        return base + deltas.sum(0)

    got = ask(x, replace(plain, router=router, combiner=combiner).expand(2), prompts)
    engine.assert_close(got, ask(x, Gate.all([2 * w for w in WEIGHTS]).expand(2), prompts))
    assert {"image", "text", "vector"} <= seen


def test_a_folder_is_loaded_as_what_it_is(model, tmp_path) -> None:
    pipe = model.build()
    pipe.save_pretrained(tmp_path)
    family = load(str(tmp_path), device=torch.device("cpu"), dtype="fp32")
    assert type(family) is type(model.composer().family)
    asked = model.request(steps=2)
    assert stock(family.pipe, asked, "pil").tobytes() == stock(pipe, asked, "pil").tobytes()
