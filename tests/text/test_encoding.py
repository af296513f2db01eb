"""Embeddings against the stock pipelines, hand-made windows, and weights in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import RequestError
from compose.models.flux import Flux
from compose.models.sd3 import StableDiffusion3
from compose.models.sd15 import StableDiffusion15
from compose.models.sdxl import StableDiffusionXL
from compose.text.encoding import encode_clip, encode_t5, weigh
from compose.text.windows import truncated, windowed
from compose.types import TextOptions
from tests.tiny import tiny_pipeline
from tests.tiny_flux import tiny_flux
from tests.tiny_sd3 import tiny_sd3
from tests.tiny_sdxl import tiny_sdxl

CPU = torch.device("cpu")
PLAIN = ["a red cat, a dog on the beach", "MOCHI  é 3", ""]
LONG = "cat, " * 30 + "a red dog, " * 8  # 92 tokens, cut behind the 75th at latest


def stock_sd15(pipe: Any, prompts: list[str], clip_skip: int | None = None) -> Tensor:
    # The pipeline looks for the last norm in `text_model`, which transformers 5 has done away with.
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    try:
        return pipe.encode_prompt(prompts, CPU, 1, False, clip_skip=clip_skip)[0]
    finally:
        object.__delattr__(pipe.text_encoder, "text_model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("skip", [None, 1, 2])
def test_sd15_plain_prompts_are_bit_equal_to_the_stock_pipeline(dtype, skip) -> None:
    pipe = tiny_pipeline().to(dtype)
    options = TextOptions(clip_skip=skip)
    got = StableDiffusion15(pipe).encode(PLAIN, options).embeds
    assert got.dtype == dtype
    assert torch.equal(got, stock_sd15(pipe, PLAIN, None if skip is None else skip - 1))


def test_sd15_prompt_and_negative_are_bit_equal_to_the_stock_pipeline() -> None:
    pipe = tiny_pipeline()
    family = StableDiffusion15(pipe)
    cond, uncond = pipe.encode_prompt(["a cat", "dog"], CPU, 1, True, ["", "red, blue"])
    assert torch.equal(family.encode(["a cat", "dog"]).embeds, cond)
    assert torch.equal(family.encode(["", "red, blue"]).embeds, uncond)


def test_an_encoder_that_wants_a_mask_gets_the_one_of_the_stock_pipeline() -> None:
    pipe = tiny_pipeline()
    without = pipe.encode_prompt(PLAIN, CPU, 1, False)[0]
    pipe.text_encoder.config.use_attention_mask = True
    expected = pipe.encode_prompt(PLAIN, CPU, 1, False)[0]
    assert not torch.equal(expected, without)
    assert torch.equal(StableDiffusion15(pipe).encode(PLAIN).embeds, expected)


@pytest.mark.parametrize("skip", [None, 1])
def test_sdxl_plain_prompts_are_bit_equal_to_the_stock_pipeline(skip) -> None:
    pipe = tiny_sdxl()
    embeds, _, pooled, _ = pipe.encode_prompt(
        PLAIN, device=CPU, do_classifier_free_guidance=False, clip_skip=skip
    )
    options = None if skip is None else TextOptions(clip_skip=2 + skip)
    got = StableDiffusionXL(pipe).encode(PLAIN, options)
    assert torch.equal(got.embeds, embeds) and torch.equal(got.extra["pooled"], pooled)


@pytest.mark.parametrize("prompts", [PLAIN, ["cat dog " * 60, "a " * 300]])
def test_sd3_plain_prompts_are_bit_equal_to_the_stock_pipeline(prompts) -> None:
    pipe = tiny_sd3()
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompts, prompts, prompts, device=CPU, do_classifier_free_guidance=False
    )
    got = StableDiffusion3(pipe).encode(prompts)
    assert torch.equal(got.embeds, embeds) and torch.equal(got.extra["pooled"], pooled)


@pytest.mark.parametrize("prompts", [PLAIN, ["cat dog " * 60, "a " * 600]])
def test_flux_plain_prompts_are_bit_equal_to_the_stock_pipeline(prompts) -> None:
    pipe = tiny_flux()
    embeds, pooled, _ = pipe.encode_prompt(prompts, device=CPU)
    got = Flux(pipe).encode(prompts)
    assert torch.equal(got.embeds, embeds) and torch.equal(got.extra["pooled"], pooled)


def test_t5_that_is_told_what_is_padding_does_not_depend_on_how_much_there_is() -> None:
    pipe = tiny_flux()
    for masked in (True, False):
        short, long = (
            encode_t5(
                pipe.text_encoder_2,
                truncated(["a red cat", "dog"], pipe.tokenizer_2, length),
                CPU,
                masked=masked,
            ).embeds
            for length in (8, 24)
        )
        difference = (long[0, :4] - short[0, :4]).abs().max()  # three words and the end
        assert difference < 1e-5 if masked else difference > 1e-3


def test_textual_inversions_are_bit_equal_to_the_stock_pipeline() -> None:
    pipe = tiny_pipeline()
    pipe.load_textual_inversion({"<zed>": torch.randn(3, 32)})
    prompts = ["a <zed> cat", "<zed>, <zed>"]
    assert torch.equal(StableDiffusion15(pipe).encode(prompts).embeds, stock_sd15(pipe, prompts))


def test_a_long_prompt_is_both_halves_encoded_by_the_stock_pipeline() -> None:
    pipe = tiny_pipeline()
    family = StableDiffusion15(pipe)
    halves = [["cat, " * 30 + "a red dog, " * 3, "cat"], ["a red dog, " * 5, ""]]
    expected = torch.cat([stock_sd15(pipe, half) for half in halves], dim=1)
    assert torch.equal(family.encode([LONG, "cat"]).embeds, expected)
    assert family.windows(["cat", LONG]) == 2 and family.beyond_the_end(LONG) == ""


def test_a_long_sdxl_prompt_has_the_pooled_output_of_its_first_window() -> None:
    pipe = tiny_sdxl()
    halves = [["cat, " * 30 + "a red dog, " * 3], ["a red dog, " * 5]]
    first, second = (
        pipe.encode_prompt(half, device=CPU, do_classifier_free_guidance=False) for half in halves
    )
    got = StableDiffusionXL(pipe).encode([LONG])
    assert torch.equal(got.embeds, torch.cat([first[0], second[0]], dim=1))
    assert torch.equal(got.extra["pooled"], first[2])


def in_fp64(pipe: Any) -> Any:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, torch.float64)
    return pipe


def test_sd15_weights_are_the_formula_by_hand() -> None:
    pipe = in_fp64(tiny_pipeline())
    plain = stock_sd15(pipe, ["a red cat and dog"])
    empty = stock_sd15(pipe, [""])
    weights = torch.ones(77, dtype=torch.float64)
    weights[2], weights[3], weights[5] = 1.3, 1.3 * 1.1, -0.5
    expected = empty + weights[:, None] * (plain - empty)
    got = StableDiffusion15(pipe).encode(["a (red (cat):1.3) and (dog:-0.5)"]).embeds
    assert (got - expected).abs().max() < 1e-12
    assert (got - plain).abs().max() > 0.1


def test_sd3_weights_reach_every_encoder_and_leave_the_pooled_output_alone() -> None:
    pipe = in_fp64(tiny_sd3())
    stock = [
        pipe.encode_prompt(p, p, p, device=CPU, do_classifier_free_guidance=False)
        for p in (["a red cat"], [""])
    ]
    plain, empty = stock[0][0], stock[1][0]
    weights = torch.ones(77 + 256, dtype=torch.float64)
    weights[2] = weights[77 + 1] = 1.5  # T5 has no start
    expected = empty + weights[:, None] * (plain - empty)
    got = StableDiffusion3(pipe).encode(["a (red:1.5) cat"])
    assert (got.embeds - expected).abs().max() < 1e-12
    assert torch.equal(got.extra["pooled"], stock[0][2])


def test_weights_in_the_second_window_are_taken_from_the_same_empty_prompt() -> None:
    pipe = in_fp64(tiny_pipeline())
    family = StableDiffusion15(pipe)
    plain = family.encode(["cat " * 76 + "dog red"]).embeds
    got = family.encode(["cat " * 76 + "(dog:2) red", "cat"]).embeds[:1]
    expected = plain.clone()
    at = 77 + 2  # start, the 76th cat, dog
    empty = stock_sd15(pipe, [""])[:, 2]
    expected[:, at] = empty + 2 * (plain[:, at] - empty)
    assert (got - expected).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_one_changes_no_bit_and_weight_zero_is_the_empty_prompt(dtype) -> None:
    pipe = tiny_pipeline().to(dtype)
    family = StableDiffusion15(pipe)
    plain, empty = family.encode(["a red cat"]).embeds, family.encode([""]).embeds
    assert torch.equal(family.encode(["(a:1) ([red]) cat"]).embeds, plain)
    one = family.encode(["a (red:0) cat"]).embeds
    other = [i for i in range(77) if i != 2]
    assert torch.equal(one[:, 2], empty[:, 2])
    assert torch.equal(one[:, other], plain[:, other])
    mixed = family.encode(["a red cat", "(dog:1.4)"]).embeds
    pair = family.encode(["a red cat", "dog"]).embeds
    assert torch.equal(mixed[0], pair[0]) and not torch.equal(mixed[1], pair[1])


def test_weights_are_not_rounded_to_half_precision() -> None:
    torch.manual_seed(0)
    embeds, empty = torch.randn(2, 1, 5, 64, dtype=torch.float64).half()
    weights = torch.rand(1, 5, dtype=torch.float64) * 4 - 2
    exact = empty.double() + weights[..., None] * (embeds.double() - empty.double())
    assert torch.equal(weigh(embeds, empty, weights), exact.half())


def test_clip_skip_beyond_the_layers_is_refused() -> None:
    pipe = tiny_pipeline()
    family = StableDiffusion15(pipe)
    windows = windowed(["cat"], pipe.tokenizer)
    for layer in (0, 3):
        with pytest.raises(RequestError, match=r"2 layers; expected 1 \(the last layer\) to 2"):
            encode_clip(pipe.text_encoder, windows, CPU, layer=layer, normed=True)
    with pytest.raises(RequestError, match="clip_skip 3 was given"):
        family.check_clip_skip(3)
    family.check_clip_skip(2)
    family.check_clip_skip(None)
