"""What is particular to Stable Diffusion 3 and 3.5; test_dit.py holds what FLUX must do as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.errors import ModelError, RequestError
from compose.models.detect import family_of
from compose.models.sd3 import StableDiffusion3
from compose.types import Size, TextOptions
from tests.models.joint import MODELS, latents, stock
from tests.tiny_sd3 import LARGEST, tiny_sd3

SD3 = MODELS["sd3"]


def composer(**how: Any) -> Composer:
    return Composer(family_of(tiny_sd3(**how)), AdapterLibrary(()))


@pytest.mark.parametrize(
    "how",
    [{}, {"t5": False}, {"medium": True}, {"dynamic": True}, {"medium": True, "dynamic": True}],
    ids=str,
)
@pytest.mark.parametrize("guidance", [7.0, 1.0])
def test_every_kind_is_bit_equal_to_the_stock_pipeline(how, guidance) -> None:
    engine, asked = composer(**how), SD3.request(guidance=guidance, size=Size(28, 44))
    expected = stock(engine.family.pipe, asked)
    got, run = engine.latents(engine.prepare(asked))
    assert torch.equal(got, expected)
    assert run.guided == (guidance > 1)


def test_defaults_are_the_stock_pipelines() -> None:
    engine = composer()
    request = engine.prepare(SD3.request(guidance=None, size=None)).request
    assert (request.guidance, request.size) == (7.0, Size(32, 32))


def test_kinds_differ_where_they_should() -> None:
    """So that the comparisons above are no comparisons of equal things."""
    kinds = ({}, {"t5": False}, {"medium": True}, {"dynamic": True})
    drawn = [latents(composer(**how), SD3.request()) for how in kinds]
    for other in drawn[1:]:
        assert (other - drawn[0]).abs().max() > 1e-3


def test_dynamic_shifting_follows_the_size() -> None:
    fixed, shifted = (composer(dynamic=d).family for d in (False, True))
    small, large = Size(16, 16), Size(64, 80)
    assert torch.equal(*(fixed.schedule(4, None, s).timesteps for s in (small, large)))
    times = [shifted.schedule(4, None, s).timesteps for s in (small, large)]
    assert (times[1][1:] > times[0][1:]).all()  # a larger picture stays longer at high noise
    assert torch.equal(
        shifted.schedule(4).timesteps, shifted.schedule(4, None, Size(32, 32)).timesteps
    )


@pytest.mark.parametrize("steps", [1, 4])
def test_heun_is_bit_equal_to_the_stock_pipeline(steps) -> None:
    engine, asked = composer(), SD3.request(scheduler="heun", steps=steps)
    assert torch.equal(latents(engine, asked), stock(engine.family.pipe, asked))
    euler = latents(engine, SD3.request(scheduler="euler", steps=4))
    assert steps == 1 or (latents(engine, asked) - euler).abs().max() > 1e-3


def test_heun_visits_more_timesteps_than_steps_and_knows_its_noise_level() -> None:
    schedule = composer().family.schedule(4, "heun")
    steps = [schedule.step(k) for k in range(len(schedule.timesteps))]
    assert [s.total for s in steps] == [7] * 7
    assert [round(s.sigma, 5) for s in steps] == [round(float(s.t) / 1000, 5) for s in steps]
    x = torch.ones(1, 4, 2, 2)
    assert schedule.scale(x, steps[0]) is x


def test_a_model_may_come_with_heun() -> None:
    pipe = tiny_sd3()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    engine = Composer(family_of(pipe), AdapterLibrary(()))
    assert torch.equal(latents(engine, SD3.request()), stock(pipe, SD3.request()))
    euler = engine.family.schedule(4, "euler").scheduler
    assert type(euler) is FlowMatchEulerDiscreteScheduler and euler.config.shift == 3.0


@pytest.mark.parametrize(
    ("how", "more", "says"),
    [
        ({}, {"scheduler": "ddim"}, "'ddim' is none of this model's; known: euler, heun"),
        ({}, {"scheduler": "dpm++"}, "none of this model's"),
        ({"dynamic": True}, {"scheduler": "heun"}, "expected euler"),
        ({}, {"size": Size(30, 32)}, "multiples of 4"),
        ({}, {"size": Size(32, 84)}, "at most 80 pixels a side"),
        ({}, {"true_cfg": 2.0}, "use --guidance"),
    ],
)
def test_what_the_model_cannot_do_is_refused(how, more, says) -> None:
    with pytest.raises(RequestError, match=says):
        composer(**how).prepare(SD3.request(**more))


def test_the_largest_size_works_and_the_next_does_not() -> None:
    engine, side = composer(), LARGEST * 4
    asked = SD3.request(size=Size(side, 16), steps=1)
    assert torch.equal(latents(engine, asked), stock(engine.family.pipe, asked))
    with pytest.raises(ValueError, match="cannot be greater"):  # what the stock pipeline says
        stock(engine.family.pipe, SD3.request(size=Size(side + 4, 16), steps=1))


def test_checkpoints_of_another_kind_are_refused_with_a_reason() -> None:
    pipe = tiny_sd3()
    pipe.transformer.register_to_config(in_channels=9)
    with pytest.raises(ModelError, match="9 channels"):
        family_of(pipe)
    pipe = tiny_sd3()
    pipe.scheduler = EulerDiscreteScheduler()
    with pytest.raises(ModelError, match="comes with a EulerDiscreteScheduler"):
        family_of(pipe)


@pytest.mark.parametrize("t5", [True, False])
def test_text_is_clip_then_t5(t5) -> None:
    """77 tokens of CLIP, 256 of T5 or as many zeros, and the summary of both CLIP encoders."""
    family = StableDiffusion3(tiny_sd3(t5=t5))
    said = family.encode(["cat and dog", "dog"])
    assert said.embeds.shape == (2, 77 + 256, 32) and said.extra["pooled"].shape == (2, 16 + 12)
    assert bool(said.embeds[:, 77:].any()) == t5
    assert list(family.components) == [
        "transformer",
        "text_encoder",
        "text_encoder_2",
        *(["text_encoder_3"] if t5 else []),
    ]


@pytest.mark.parametrize(("layer", "skipped"), [(None, None), (1, -1), (2, 0)])
def test_clip_skip_counts_from_the_last_layer(layer, skipped) -> None:
    family = StableDiffusion3(tiny_sd3())
    got = family.encode(["cat"], TextOptions(layer)).embeds
    expected = family.pipe.encode_prompt(
        "cat", None, None, do_classifier_free_guidance=False, clip_skip=skipped
    )[0]
    assert torch.equal(got, expected)
    own = family.encode(["cat"]).embeds
    assert torch.equal(got, own) == (layer in (None, 2))


def test_the_part_of_a_prompt_that_no_encoder_sees_is_told() -> None:
    with_t5, without = (StableDiffusion3(tiny_sd3(t5=t5)) for t5 in (True, False))
    assert without.beyond_the_end("cat " * 75) == with_t5.beyond_the_end("cat " * 255) == ""
    assert without.beyond_the_end("cat " * 80).split() == ["cat"] * 5
    assert with_t5.beyond_the_end("cat " * 80) == ""
    assert with_t5.beyond_the_end("cat " * 262).split() == ["cat"] * 7


def test_a_negative_prompt_without_guidance_is_told() -> None:
    engine = composer()
    warned = engine.prepare(SD3.request(guidance=1.0)).warnings
    assert warned == (
        "the negative prompt has no effect without guidance; give --guidance above 1",
    )
    for asked in (SD3.request(), SD3.request(guidance=1.0, negative="")):
        assert engine.prepare(asked).warnings == ()
