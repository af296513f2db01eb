"""Stable Diffusion XL: a second text that comes from the prompt, and runs cut at both ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compose
from compose.adapters.library import AdapterLibrary
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from compose.models.family import SCHEDULERS
from tests import engine
from tests.attachment import pipelines as tiny
from tests.tiny_sdxl import EVERYWHERE, tiny_sdxl


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Adapters of the UNet and of both text encoders."""
    folder = tmp_path_factory.mktemp("both")
    return engine.files(folder, pipe=tiny_sdxl(), modules=EVERYWHERE)


@pytest.fixture(scope="module")
def unet_paths(tmp_path_factory) -> list[Path]:
    """Adapters of the UNet alone."""
    modules = {"unet": EVERYWHERE["unet"]}
    return engine.files(tmp_path_factory.mktemp("unet"), pipe=tiny_sdxl(), modules=modules)


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize(
    "method",
    [Merge(), Merge(budget="mean"), Switch(every=1), Composite()],
    ids=lambda m: f"{m.name}-{'-'.join(map(str, m.values().values()))}",
)
def test_a_pipeline_gives_what_our_own_loop_gives(paths, scheduler, guidance, method) -> None:
    """Bit for bit; token embeddings and pooled embeddings at the shares of the method."""
    composer = engine.composer(pipe=tiny_sdxl())
    pipe = composer.family.pipe
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
    asked = engine.request(paths, tiny.WEIGHTS, method, guidance=guidance)
    with composer:
        expected, run = composer.latents(composer.prepare(asked))
    plain = engine.stock(pipe, asked)
    with tiny.attach(pipe, paths, method) as attached:
        got = engine.stock(pipe, asked)
    assert (got - plain).abs().max() > 0.05
    assert torch.equal(got, expected)
    assert (attached.trace, attached.warnings) == (run.trace, [])


@pytest.mark.parametrize("kind", tiny.XL_KINDS)
def test_composite_equals_the_mean_of_merged_denoisers(unet_paths, kind) -> None:
    pipe = tiny.pipeline(kind)
    more = {"num_images_per_prompt": 2}
    with tiny.attach(pipe, unet_paths, Composite()):
        got = tiny.call(kind, pipe, **more, generator=tiny.generators(3, 4))
    plain = tiny.call(kind, pipe, **more, generator=tiny.generators(3, 4))
    assert (got - plain).abs().max() > 0.05
    pipe.unet.forward = tiny.averaging(tiny.denoisers(pipe, unet_paths))
    expected = tiny.call(kind, pipe, **more, generator=tiny.generators(3, 4))
    engine.assert_close(got, expected)


@pytest.mark.parametrize("kind", tiny.XL_KINDS)
def test_zero_weights_are_bit_equal_to_the_pipeline_without_adapters(paths, kind) -> None:
    pipe = tiny.pipeline(kind)
    expected = tiny.call(kind, pipe)
    uses = [compose.AdapterUse(str(path), 0.0) for path in paths]
    with compose.attach(pipe, uses, Switch(every=1), library=AdapterLibrary(())):
        assert torch.equal(tiny.call(kind, pipe), expected)


def test_a_run_that_one_pipeline_begins_and_another_ends(paths) -> None:
    """`denoising_end` and `denoising_start`; each half counts its own steps."""
    first, second = tiny.pipeline("xl"), tiny.pipeline("xl_img2img")
    half = {"num_inference_steps": 6}
    with tiny.attach(first, paths, Switch(every=2)) as begun:
        between = tiny.call("xl", first, **half, denoising_end=0.6)
    whole = {**half, "denoising_start": 0.6, "image": between}
    with tiny.attach(second, paths, Merge()) as ended:
        got = tiny.call("xl_img2img", second, **whole)
    acting = [[w != 0 for w in record.weights[0]].index(True) for record in begun.trace]
    assert acting == [0, 0, 1]
    assert [record.step for record in ended.trace] == [0, 1, 2]
    merged = engine.merged_pipeline(tiny.composer(second), paths, tiny.WEIGHTS)
    engine.assert_close(got, tiny.call("xl_img2img", merged, **whole))
