"""Adapters on Stable Diffusion XL against the stock pipeline, merged weights and PEFT."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from compose.composer import Composer
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.gate import Gate
from compose.layers import GatedLoraLayer
from compose.request import Request
from compose.run import Run
from compose.types import Size
from tests import engine
from tests.tiny_sdxl import (
    ATTENTION,
    CONVOLUTIONS,
    EVERYWHERE,
    TEXT,
    TEXT_2,
    VECTORS,
    tiny_sdxl,
)

SCHEDULERS = ("ddim", "euler", "dpm++")
WEIGHTS = [0.8, -0.5, 0.6]


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    return tiny_sdxl()


@pytest.fixture(scope="module")
def paths(pipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return files(pipe, tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def composer(pipe):
    with engine.composer(pipe=pipe) as made:
        yield made


def files(pipe: StableDiffusionXLPipeline, folder: Path, **options: Any) -> list[Path]:
    return engine.files(folder, pipe=pipe, **{"modules": EVERYWHERE, **options})


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    ("guidance", "negative", "size"),
    [(5.0, "dog", Size(48, 32)), (5.0, "", Size(32, 64)), (1.0, "", Size(32, 32))],
)
def test_zero_weights_are_bit_equal_to_the_stock_pipeline(
    composer, paths, scheduler, guidance, negative, size
) -> None:
    asked = engine.request(
        paths,
        [0.0] * 3,
        Merge(),
        scheduler=scheduler,
        guidance=guidance,
        negative=negative,
        size=size,
    )
    expected = engine.stock(composer.family.pipe, asked, "pil")
    got = composer.generate(asked).images[0].image
    for part in composer.family.components.values():
        assert any(isinstance(m, GatedLoraLayer) for m in part.modules())
    assert (got.width, got.height) == (size.width, size.height)
    assert got.tobytes() == expected.tobytes()
    # installed layers do not disturb the stock pipeline either
    assert engine.stock(composer.family.pipe, asked, "pil").tobytes() == expected.tobytes()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_merge_equals_merged_weights(composer, paths, scheduler) -> None:
    asked = engine.request(paths, WEIGHTS, Merge(), scheduler=scheduler)
    expected = engine.stock(engine.merged_pipeline(composer, paths, WEIGHTS), asked)
    base = engine.stock(composer.family.pipe, asked)
    got = engine.latents(composer, asked)
    assert (got - base).abs().max() > 0.05  # the adapters do something
    engine.assert_close(got, expected)


@pytest.mark.parametrize(
    "modules",
    [
        {"unet": ATTENTION},
        {"unet": CONVOLUTIONS},
        {"unet": VECTORS},
        {"text_encoder": TEXT},
        {"text_encoder_2": TEXT_2[:2]},
        {"text_encoder_2": TEXT_2[2:]},  # changes the pooled output alone
        {"text_encoder_2": ("text_projection",)},
    ],
    ids=lambda modules: "+".join(modules),
)
def test_every_part_takes_adapters(composer, tmp_path, modules) -> None:
    paths = files(composer.family.pipe, tmp_path, modules=modules, layout="diffusers")
    asked = engine.request(paths, WEIGHTS, Merge())
    expected = engine.stock(engine.merged_pipeline(composer, paths, WEIGHTS), asked)
    got = engine.latents(composer, asked)
    assert (got - engine.stock(composer.family.pipe, asked)).abs().max() > 1e-3
    engine.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_merge_equals_peft(composer, tmp_path) -> None:
    pytest.importorskip("peft")
    paths = files(composer.family.pipe, tmp_path, layout="diffusers")
    asked = engine.request(paths, WEIGHTS, Merge())
    pipe = copy.deepcopy(composer.family.pipe)
    for k, path in enumerate(paths):
        pipe.load_lora_weights(str(path), adapter_name=f"a{k}")
    pipe.set_adapters([f"a{k}" for k in range(3)], WEIGHTS)
    loaded = pipe.get_list_adapters()
    assert all(set(loaded[part]) == {"a0", "a1", "a2"} for part in EVERYWHERE)
    engine.assert_close(engine.latents(composer, asked), engine.stock(pipe, asked))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_composite_in_one_call_equals_separate_calls(pipe, paths, scheduler) -> None:
    asked = engine.request(
        paths, [1.0, 0.5, 0.8], Composite(), scheduler=scheduler, steps=2, negative=""
    )
    pictures, calls = {}, {}
    for budget in (None, 1, 4):
        with engine.composer(pipe=pipe, row_budget=budget) as composer:
            pictures[budget], run = composer.latents(composer.prepare(asked))
        calls[budget] = (run.calls.forwards, run.calls.rows)
        assert max(len(record.rows) for record in run.trace) == (budget or 6)
        engine.assert_close(pictures[budget], pictures[None])
    assert calls == {None: (2, 12), 1: (12, 12), 4: (4, 12)}


def run_of(composer: Composer, asked: Request, texts: list[tuple[str, str]]) -> Run:
    """A run over prompts and negative prompts, one pair for every image."""
    prepared = composer.prepare(asked)
    composer._install(prepared.adapters)
    run = composer._run(prepared.request, prepared.adapters, (1,) * len(texts))
    return replace(run, prompts=tuple(p for p, _ in texts), negatives=tuple(n for _, n in texts))


@torch.no_grad()
def first_step(run: Run, x: Tensor, gate: Gate) -> dict[str, Tensor]:
    return run.predict(x, run.schedule.step(0), run.guided_passes("", gate, [1.0] * 3))


def test_prompts_side_by_side_are_as_if_alone(composer, paths) -> None:
    asked = engine.request(paths, WEIGHTS, Merge())
    texts = [("cat and dog", ""), ("a red mochi on the beach", "blue")]
    x = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    gate = Gate.all(WEIGHTS)
    both = first_step(run_of(composer, asked, texts), x, gate)
    for k, text in enumerate(texts):
        alone = first_step(run_of(composer, asked, [text]), x[k : k + 1], gate)
        other = first_step(run_of(composer, asked, [texts[1 - k]]), x[k : k + 1], gate)
        for side in ("cond", "uncond"):
            engine.assert_close(both[side][k], alone[side][0])
            assert (both[side][k] - other[side][0]).abs().max() > 1e-4


@pytest.mark.parametrize("parts", [("text",), ("image",), ("text", "image")], ids="+".join)
def test_rows_with_masks_of_their_own_are_as_if_alone(composer, paths, parts) -> None:
    asked = engine.request(paths, [1.0] * 3, Merge())
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 16, 24, generator=g)
    masks = {
        "text": torch.rand(2, 77, 3, generator=g),
        "image": torch.rand(2, 3, 32, 48, generator=g),
    }
    gate = Gate(torch.ones(2, 3), **{part: masks[part] for part in parts})
    texts = [("cat and dog", "")] * 2
    both = first_step(run_of(composer, asked, texts), x, gate)["cond"]
    for k in (0, 1):
        run, row = run_of(composer, asked, texts[:1]), x[k : k + 1]
        alone = first_step(run, row, gate.narrow(k, k + 1))["cond"][0]
        swapped = first_step(run, row, gate.narrow(1 - k, 2 - k))["cond"][0]
        engine.assert_close(both[k], alone)
        assert (both[k] - swapped).abs().max() > 1e-4
    assert torch.equal(first_step(run_of(composer, asked, texts), x, gate)["cond"], both)
