"""Stable Diffusion XL against the stock pipeline; which models it is and which it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from torch import Tensor

from compose.composer import Composer
from compose.errors import ModelError, RequestError
from compose.fusion.merge import Merge
from compose.models.detect import family_named, family_of, model_pipeline
from compose.models.loading import load
from compose.models.sdxl import StableDiffusionXL
from compose.request import Request
from compose.types import Size
from tests import engine
from tests.models.sites import check_sites
from tests.tiny_sdxl import (
    POOLED,
    TEXT,
    TEXT_2,
    TIME_WIDTH,
    tiny_sdxl,
    tiny_sdxl_folder,
)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionXLPipeline:
    return tiny_sdxl()


@pytest.fixture
def composer(pipe):
    with engine.composer(pipe=pipe) as made:
        yield made


def plain(**more: Any) -> Request:
    return engine.request([], [], Merge(), **more)


# The stock pipeline.


@pytest.mark.parametrize("scheduler", [None, "ddim", "euler", "dpm++"])
def test_no_adapters_at_all_is_the_stock_pipeline(composer, scheduler) -> None:
    asked = plain(scheduler=scheduler)
    assert torch.equal(engine.latents(composer, asked), engine.stock(composer.family.pipe, asked))


@pytest.mark.parametrize("force_zeros", [True, False])
def test_an_empty_negative_prompt_is_none_and_a_space_is_the_empty_text(force_zeros) -> None:
    composer = engine.composer(pipe=tiny_sdxl(force_zeros=force_zeros))
    pipe, asked = composer.family.pipe, plain(negative="")
    none, empty = engine.stock(pipe, asked), engine.stock(pipe, asked, negative_prompt="")
    assert torch.equal(engine.latents(composer, asked), none)
    assert torch.equal(engine.latents(composer, plain(negative=" ")), empty)
    assert torch.equal(none, empty) != force_zeros


def test_an_empty_prompt_is_not_zeros(composer) -> None:
    asked = replace(plain(), prompt="")
    assert torch.equal(engine.latents(composer, asked), engine.stock(composer.family.pipe, asked))


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_counts_from_the_last_layer_for_both_texts(composer, clip_skip) -> None:
    pipe, skip = composer.family.pipe, clip_skip - 2  # diffusers counts from the layer it reads
    alone = plain(guidance=1.0, clip_skip=clip_skip)
    assert torch.equal(engine.latents(composer, alone), engine.stock(pipe, alone, clip_skip=skip))

    asked = plain(clip_skip=clip_skip)
    texts = {}
    for side, text in (("", asked.prompt), ("negative_", asked.negative)):
        embeds, _, pooled, _ = pipe.encode_prompt(
            text, do_classifier_free_guidance=False, clip_skip=skip
        )
        texts |= {f"{side}prompt_embeds": embeds, f"{side}pooled_prompt_embeds": pooled}
    expected = engine.stock(pipe, asked, prompt=None, negative_prompt=None, **texts)
    got = engine.latents(composer, asked)
    assert torch.equal(got, expected)
    assert torch.equal(got, engine.latents(composer, plain())) == (clip_skip == 2)


def test_more_clip_skip_than_layers_is_refused(composer) -> None:
    with pytest.raises(RequestError, match=r"clip_skip 4 .* of 3 layers; expected 1 .* to 3"):
        engine.latents(composer, plain(clip_skip=4))


def test_a_checkpoint_without_the_first_text_encoder_is_the_stock_pipeline() -> None:
    composer = engine.composer(pipe=tiny_sdxl(first=False))
    assert tuple(composer.family.components) == ("unet", "text_encoder_2")
    asked = plain()
    assert torch.equal(engine.latents(composer, asked), engine.stock(composer.family.pipe, asked))
    assert composer.family.windows(["cat " * 80]) == 2


# Decoding.


# diffusers' own pipeline calls its deprecated upcast_vae
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
@pytest.mark.parametrize("force_upcast", [True, False])
def test_an_fp16_vae_decodes_in_fp32_where_it_must(force_upcast) -> None:
    pipe = tiny_sdxl()
    pipe.vae.register_to_config(force_upcast=force_upcast)
    composer = engine.composer(torch.float16, pipe=pipe)
    vae = pipe.vae
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    seen: list[torch.dtype] = []
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    asked = plain()
    got = composer.generate(asked).images[0].image
    assert seen == [torch.float32 if force_upcast else torch.float16]
    assert got.tobytes() == engine.stock(pipe, asked, "pil").tobytes()
    after = vae.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.dtype for value in after.values()} == {torch.float16}


def test_activations_that_overflow_fp16_survive_and_the_vae_comes_back_after_a_failure() -> None:
    pipe = tiny_sdxl()
    pipe.vae.decoder.conv_in.weight.data *= 2e5
    family = engine.composer(torch.float16, pipe=pipe).family
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).half()
    assert not pipe.vae.decode(noise / 0.5).sample.isfinite().all()
    seen: list[Tensor] = []

    def look(module: Any, args: Any, out: Tensor) -> None:
        seen.append(out)
        if len(seen) > 1:
            raise KeyboardInterrupt

    pipe.vae.decoder.register_forward_hook(look)
    family.decode(noise)
    assert seen[0].isfinite().all()
    with pytest.raises(KeyboardInterrupt):
        family.decode(noise)
    assert pipe.vae.dtype == torch.float16


def test_latents_are_brought_to_the_mean_and_deviation_of_the_vae() -> None:
    pipe = tiny_sdxl()
    asked = plain()
    usual = engine.stock(pipe, asked, "pil")
    pipe.vae.register_to_config(
        latents_mean=[0.3, -0.2, 0.1, 0.4], latents_std=[1.5, 0.7, 1.1, 0.9]
    )
    expected = engine.stock(pipe, asked, "pil")
    assert expected.tobytes() != usual.tobytes()
    got = engine.composer(pipe=pipe).generate(asked).images[0].image
    assert got.tobytes() == expected.tobytes()


# Sites.


@pytest.mark.parametrize("size", [Size(32, 32), Size(40, 24), Size(36, 22)], ids=str)
def test_streams_and_grids_are_what_the_modules_see(pipe, size) -> None:
    assert check_sites(family_of(pipe), size) == {"image", "text", "vector"}


def test_sites_are_named_after_their_place(pipe) -> None:
    family = family_of(pipe)
    expected = {
        ("unet", "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k"): ("text", "down.2"),
        ("unet", "up_blocks.0.attentions.1.transformer_blocks.1.attn2.to_q"): ("image", "up.0"),
        ("unet", "mid_block.resnets.0.time_emb_proj"): ("vector", "mid"),
        ("unet", "add_embedding.linear_1"): ("vector", ""),
        ("text_encoder", TEXT[0]): ("text", ""),
        ("text_encoder_2", TEXT_2[0]): ("text", ""),
        ("text_encoder_2", "text_projection"): ("vector", ""),
    }
    for (part, path), place in expected.items():
        site = family.site(part, path, family.components[part].get_submodule(path))
        assert (site.stream, site.block) == place, path


# Models.


def test_defaults_are_those_of_the_stock_pipeline(pipe) -> None:
    family = family_of(pipe)
    assert (family.name, family.guidance, family.multiple) == ("sdxl", 5.0, 8)
    assert family.default_size == Size(32, 32)


def test_a_folder_loads_as_the_pipeline_it_holds(tmp_path) -> None:
    folder = tiny_sdxl_folder(tmp_path)
    assert family_named(model_pipeline(str(folder)).name, "").name == "sdxl"
    family = load(str(folder), device=torch.device("cpu"), dtype="fp32")
    assert isinstance(family, StableDiffusionXL)
    asked = plain()
    got = engine.latents(Composer(family), asked)
    assert torch.equal(got, engine.stock(family.pipe, asked))
    engine.assert_close(got, engine.stock(tiny_sdxl(), asked))


def test_refiners_are_refused_with_a_reason(pipe, tmp_path) -> None:
    refiner = tiny_sdxl(first=False, projection_class_embeddings_input_dim=5 * TIME_WIDTH + POOLED)
    with pytest.raises(ModelError, match=r"image-to-image refiner; .* the base that it refines"):
        family_of(refiner)
    parts = {n: getattr(pipe, n) for n in pipe.components}
    second = StableDiffusionXLImg2ImgPipeline(
        **parts, requires_aesthetics_score=True, add_watermarker=False
    )
    with pytest.raises(ModelError, match=r"the SDXL refiner, .* the base that it refines"):
        family_of(second)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": true}'
    )
    with pytest.raises(ModelError, match=r"the SDXL refiner, .* the base that it refines"):
        load(str(tmp_path), device=torch.device("cpu"), dtype="fp32")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"in_channels": 9}, "9 channels"),
        ({"time_cond_proj_dim": 8}, "consistency-distilled"),
        ({"addition_embed_type": None}, "addition_embed_type None"),
        ({"projection_class_embeddings_input_dim": 50}, "takes 50 numbers .* expected 48"),
    ],
)
def test_unets_of_another_kind_are_refused_with_a_reason(changed, says) -> None:
    with pytest.raises(ModelError, match=says):
        family_of(tiny_sdxl(**changed))


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (("text_encoder_2", "tokenizer_2"), "has neither of text_encoder_2 and tokenizer_2"),
        (("text_encoder_2",), "has tokenizer_2 of text_encoder_2 and tokenizer_2"),
        (("tokenizer",), "has text_encoder of text_encoder and tokenizer"),
    ],
)
def test_incomplete_text_encoders_are_refused(missing, says) -> None:
    pipe = tiny_sdxl()
    pipe.register_modules(**dict.fromkeys(missing))
    with pytest.raises(ModelError, match=says):
        family_of(pipe)
