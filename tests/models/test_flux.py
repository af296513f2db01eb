"""What is particular to FLUX; test_dit.py holds what Stable Diffusion 3 must do as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.errors import ModelError, RequestError
from compose.models.card import ModelCard
from compose.models.detect import family_of
from compose.models.flux import Flux
from compose.request import Request
from compose.types import Size, TextOptions
from tests.engine import assert_close
from tests.models.joint import MODELS, latents, stock
from tests.tiny_flux import tiny_flux

DEV = MODELS["dev"]


def composer(**how: Any) -> Composer:
    return Composer(family_of(tiny_flux(**how)), AdapterLibrary(()))


def ask(**more: Any) -> Request:
    return DEV.request(**{"guidance": None, **more})


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5, 10.0])
def test_dev_takes_guidance_as_an_input(guidance) -> None:
    engine, asked = composer(), ask(guidance=guidance)
    got, run = engine.latents(engine.prepare(asked))
    assert torch.equal(got, stock(engine.family.pipe, asked))
    assert (run.guidance, run.distilled_guidance, run.guided) == (1.0, guidance, False)
    usual = latents(engine, ask())
    assert torch.equal(got, usual) if guidance == 3.5 else (got - usual).abs().max() > 1e-4


def test_schnell_is_bit_equal_to_the_stock_pipeline() -> None:
    engine = composer(schnell=True)
    assert torch.equal(latents(engine, ask()), stock(engine.family.pipe, ask()))


@pytest.mark.parametrize("schnell", [False, True])
@pytest.mark.parametrize("negative", ["dog", ""])
def test_true_cfg_is_two_rows_of_one_call(schnell, negative) -> None:
    """The stock pipeline makes two calls of one row, which rounds differently: measured at most
    4.3e-7 of the largest value, 1e-6 allowed.
    """
    engine, asked = composer(schnell=schnell), ask(true_cfg=4.0, negative=negative)
    got, run = engine.latents(engine.prepare(asked))
    assert_close(got, stock(engine.family.pipe, asked), 1e-6)
    assert run.guided and (run.calls.forwards, run.calls.rows) == (4, 8)
    assert run.trace[0].rows == ("uncond", "cond")
    assert (got - latents(engine, ask(negative=negative))).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [None, 0.0, 1.0])
def test_true_cfg_up_to_one_is_none(scale) -> None:
    engine, asked = composer(), ask(true_cfg=scale, negative="dog")
    got, run = engine.latents(engine.prepare(asked))
    assert torch.equal(got, latents(engine, ask())) and run.calls.rows == 4


def test_defaults_are_the_stock_pipelines() -> None:
    for schnell, guidance in ((False, 3.5), (True, 0.0)):
        family = Flux(tiny_flux(schnell=schnell))
        assert family.guidance == guidance and family.default_size == Size(256, 256)
    assert Flux(tiny_flux(), ModelCard(guidance=2.0)).guidance == 2.0
    assert Flux(tiny_flux(schnell=True), ModelCard(guidance=2.0)).guidance == 0.0


def test_a_prepared_request_can_be_asked_again() -> None:
    """The default that is filled in is no guidance that the model would refuse."""
    engine = composer(schnell=True)
    prepared = engine.prepare(ask()).request
    assert prepared.guidance == 0.0
    assert engine.prepare(Request.from_json(prepared.to_json())).request == prepared


def test_steps_follow_the_size_in_dev_and_not_in_schnell() -> None:
    small, large = Size(16, 16), Size(64, 80)
    dev, schnell = (Flux(tiny_flux(schnell=s)) for s in (False, True))
    times = [dev.schedule(4, None, s).timesteps for s in (small, large)]
    assert (times[1][1:] > times[0][1:]).all()
    for size in (small, large):
        assert schnell.schedule(4, None, size).timesteps.tolist() == [1000.0, 750.0, 500.0, 250.0]


@pytest.mark.parametrize(
    ("schnell", "more", "says"),
    [
        (True, {"guidance": 3.5}, "guidance 3.5 was given.*leave it out or use --true-cfg"),
        (False, {"scheduler": "ddim"}, "'ddim' is none of this model's; known: euler"),
        (False, {"scheduler": "heun"}, "none of this model's"),
        (False, {"size": Size(30, 32)}, "multiples of 4"),
        (False, {"clip_skip": 2}, "clip_skip 2 was given"),
    ],
)
def test_what_the_model_cannot_do_is_refused(schnell, more, says) -> None:
    with pytest.raises(RequestError, match=says):
        composer(schnell=schnell).prepare(ask(**more))


def test_checkpoints_of_another_kind_are_refused_with_a_reason() -> None:
    pipe = tiny_flux()
    pipe.transformer.register_to_config(in_channels=96)
    with pytest.raises(ModelError, match="24 channels and the VAE gives 4"):
        family_of(pipe)
    pipe = tiny_flux()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with pytest.raises(ModelError, match="expected a FlowMatchEulerDiscreteScheduler"):
        family_of(pipe)


@pytest.mark.parametrize(("schnell", "most"), [(False, 512), (True, 256)])
def test_text_is_t5_alone_and_shorter_for_schnell(schnell, most) -> None:
    family = Flux(tiny_flux(schnell=schnell))
    said = family.encode(["cat and dog", "dog"], TextOptions())
    assert said.embeds.shape == (2, most, 32) and said.extra["pooled"].shape == (2, 32)
    assert family.beyond_the_end("cat " * (most - 1)) == ""
    assert family.beyond_the_end("cat " * (most + 6)).split() == ["cat"] * 7


def test_a_negative_prompt_without_true_cfg_is_told() -> None:
    engine = composer()
    warned = engine.prepare(ask(negative="dog")).warnings
    assert warned == (
        "the negative prompt has no effect without guidance; give --true-cfg above 1",
    )
    assert engine.prepare(ask(negative="dog", true_cfg=2.0)).warnings == ()
