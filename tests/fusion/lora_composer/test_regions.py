"""LoRA-Composer: a text and an adapter for each region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.attention.masks import on_grid
from compose.fusion.lora_composer import LoraComposer
from compose.fusion.merge import Merge
from compose.run import Run
from tests import engine, tiny, tiny_sdxl
from tests.families import FAMILIES
from tests.fusion.lora_composer.made import HALVES, LEFT, PLAIN, RIGHT, SERVED, Made, close


def test_a_region_listens_to_the_words_of_its_adapter_under_its_text_encoder(here: Made) -> None:
    """Placed adapters are off in the prompt as a whole; the one without a region is on in all."""
    run, _ = here.begun(LoraComposer())
    scene = run.state
    assert [c.name for c in scene.concepts] == ["a0", "a1"]
    assert scene.gate.weight.tolist() == [[0, 0, pytest.approx(0.8)]]
    words = {"a0": "mochi", "a1": "biscuit"}
    gates = {"a0": [1.0, 0.0, 0.8], "a1": [0.0, 0.5, 0.8]}
    with torch.no_grad():
        for concept in scene.concepts:
            expected = run.encode([words[concept.name]], gates[concept.name])
            assert torch.equal(concept.texts["cond"].embeds, expected.embeds)
            negative = run.encode(["dog"], gates[concept.name])
            assert torch.equal(concept.texts["uncond"].embeds, negative.embeds)
            assert concept.gate.weight[0].tolist() == pytest.approx(gates[concept.name])
            assert not torch.equal(expected.embeds, run.encode(["mochi"], [0, 0, 0.8]).embeds)
        for p, text in zip(both_passes(run), ("dog", engine.PROMPT), strict=True):
            assert torch.equal(p.conditioning.embeds, run.encode([text], [0, 0, 0.8]).embeds)
            assert [s.name for s in p.streams] == ["a0", "a1"]
            for stream, box in zip(p.streams, (LEFT, RIGHT), strict=True):
                assert torch.equal(stream.place[0].double(), box.on(run.regions.shape[-2:]))


def both_passes(run: Run, **fields: Any) -> list[Any]:
    return LoraComposer(**fields).passes(run, run.schedule.step(0))


def test_the_class_word_is_said_behind_the_trigger(shared: Made) -> None:
    run, _ = shared.begun(LoraComposer())
    first, *rest = run.adapters.adapters
    first = replace(first, class_word="cat")
    run.adapters = replace(run.adapters, adapters=(first, *rest))
    with torch.no_grad():
        concept = LoraComposer().prepare(run).concepts[0]
        assert torch.equal(
            concept.texts["cond"].embeds, run.encode(["mochi cat"], [1, 0, 0.8]).embeds
        )
        assert concept.words == (((1,), (2,)),)
        # in the prompt as a whole, without the words of others: "mochi cat and dog, sunvo style"
        concept = LoraComposer(local="prompt").prepare(run).concepts[0]
        local = "mochi cat and dog, sunvo style"
        assert torch.equal(concept.texts["cond"].embeds, run.encode([local], [1, 0, 0.8]).embeds)
        assert concept.words == (((1,), (2,)),)
        # a class word that does not stand behind the trigger there is none of its words
        first = replace(first, class_word="dog")
        run.adapters = replace(run.adapters, adapters=(first, *rest))
        assert LoraComposer(local="prompt").prepare(run).concepts[0].words == (((1,),),)


def test_words_of_several_tokens_are_one_map(here: Made) -> None:
    """ "quux" falls apart into letters: its map is the sum of theirs."""
    run, noise = here.begun(LoraComposer())
    first, *rest = run.adapters.adapters
    run.adapters = replace(run.adapters, adapters=(replace(first, triggers=("red quux",)), *rest))
    method = LoraComposer()
    with torch.no_grad():
        run.state = method.prepare(run)
        concept = run.state.concepts[0]
        assert concept.words == (((1,), (2, 3, 4, 5)),)
        heard = method._listening(run, run.schedule.step(0), noise)
    assert heard.words[0].shape[:2] == (1, 2)
    assert heard.words[1].shape[:2] == (1, 1)


def test_words_that_are_bound_are_what_a_region_listens_to(here: Made) -> None:
    asked = here.asked(LoraComposer())
    first, *rest = asked.adapters
    asked = replace(asked, adapters=(replace(first, trigger="mochi cat"), *rest))
    prepared = here.composer.prepare(asked)
    run = here.composer._run(prepared.request, prepared.adapters, (1,))
    with torch.no_grad():
        scene = LoraComposer().prepare(run)
    assert scene.concepts[0].words == (((1,), (2,)),)


def test_every_image_has_the_positions_of_its_own_prompt(here: Made) -> None:
    """Losses of images with words in different places are as if each were alone."""
    prompts = (engine.PROMPT, "a sunvo style, biscuit dog and mochi cat")
    method = LoraComposer(local="prompt")
    run, noise = here.begun(method, seeds=(1, 2))
    run = replace(run, prompts=prompts, _texts={})
    step = run.schedule.step(0)
    with torch.no_grad():
        run.state = method.prepare(run)
        assert run.state.concepts[0].words == (((1,),), ((7,),))
        both = method.losses(run, step, noise)
        for i, prompt in enumerate(prompts):
            one = replace(run, prompts=(prompt,), negatives=run.negatives[:1], _texts={})
            one.state = method.prepare(one)
            close(method.losses(one, step, noise[i : i + 1])[0], both[i])


def test_an_adapter_without_weight_is_not_there(here: Made) -> None:
    """As if it were not in the request: the picture is that of the other one alone."""
    method = LoraComposer()
    got = here.latents(method, (0.0, 0.5))
    alone = replace(here.asked(method, (0.0, 0.5)), adapters=())
    only = here.asked(method, (0.0, 0.5)).adapters[1]
    close(got, engine.latents(here.composer, replace(alone, adapters=(only,))))


CROSSING = {
    "sd15": [
        f"{block}.transformer_blocks.0.attn2.{part}"
        for block in (
            "down_blocks.0.attentions.0",
            "down_blocks.1.attentions.0",
            "mid_block.attentions.0",
            "up_blocks.2.attentions.1",
        )
        for part in ("to_k", "to_v", "to_out.0")
    ],
    "sdxl": [
        f"{block}.attn2.{part}"
        for block in (
            "down_blocks.1.attentions.0.transformer_blocks.0",
            "mid_block.attentions.0.transformer_blocks.1",
            "up_blocks.1.attentions.1.transformer_blocks.0",
        )
        for part in ("to_k", "to_v", "to_out.0")
    ],
}
TEXT: Mapping[str, Mapping[str, Any]] = {"sd15": {"text_encoder": tiny.TEXT}, "sdxl": {}}
"""The pooled text of SDXL stays the prompt's, so there the adapter leaves text encoders alone."""


@pytest.mark.parametrize("name", SERVED)
def test_one_adapter_of_cross_attention_everywhere_is_a_plain_adapter(
    name: str, tmp_path: Path
) -> None:
    family = replace(FAMILIES[name], sites={"unet": CROSSING[name], **TEXT[name]})
    paths = family.files(tmp_path, ranks=(4,))
    with engine.composer(torch.float64, pipe=family.build()) as composer:
        plain = engine.latents(composer, family.request(paths, [0.8], Merge()))
        for fields in (PLAIN, {**PLAIN, "isolate": True}, {**PLAIN, "scope": "regional"}):
            method = LoraComposer(local="prompt", **fields)
            asked = family.request(paths, [0.8], method, regions={"a0": engine.EVERYWHERE})
            close(engine.latents(composer, asked), plain)
        base = engine.latents(composer, family.request([], [], Merge()))
        assert (plain - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", SERVED)
def test_other_layers_follow_an_adapter_under_scope_regional_alone(
    name: str, tmp_path: Path
) -> None:
    """Convolutions, self-attention, queries: under reference such an adapter changes no bit."""
    chosen = {
        "sd15": [s for s in tiny.ATTENTION + tiny.CONVOLUTIONS if not s.endswith(("to_k", "to_v"))],
        "sdxl": [s for s in tiny_sdxl.ATTENTION if not s.endswith(("to_k", "to_v"))],
    }[name]
    family = replace(FAMILIES[name], sites={"unet": chosen})
    paths = family.files(tmp_path, ranks=(4, 2))
    with engine.composer(pipe=family.build()) as composer:
        made = {}
        for scope in ("reference", "regional"):
            for weight in (0.5, 2.0):
                method = LoraComposer(scope=scope, **PLAIN)
                asked = family.request(paths, [weight, 1.0], method, regions=HALVES)
                made[scope, weight] = engine.latents(composer, asked)
        assert torch.equal(made["reference", 0.5], made["reference", 2.0])
        assert (made["regional", 0.5] - made["regional", 2.0]).abs().max() > 1e-3


def test_the_negative_prompt_can_be_left_to_the_base(here: Made) -> None:
    run, _ = here.begun(LoraComposer(uncond=False))
    uncond, cond = both_passes(run, uncond=False)
    assert not uncond.streams and len(cond.streams) == 2
    assert uncond.bias == cond.bias and len(cond.bias) == 1
    unguided, _ = here.begun(LoraComposer(), guidance=1.0)
    (cond,) = both_passes(unguided)
    assert len(cond.streams) == 2


def test_regions_do_not_see_each_other(here: Made) -> None:
    """Probabilities from one half to the other are zero, rows add up to one; not so without."""
    for isolate in (True, False):
        method = LoraComposer(isolate=isolate)
        run, noise = here.begun(method)
        with torch.no_grad():
            inward = method._listening(run, run.schedule.step(0), noise).inward[0]
        grid = run.family.layout(noise).grid(2)
        left, right = on_grid(run.regions[None, :2], grid)[0].flatten(1)
        across = max(inward[left][:, right].max(), inward[right][:, left].max())
        assert across < 1e-12 if isolate else across > 1e-3
        close(inward.sum(1), torch.ones_like(inward[0]))
