"""Weighted and long prompts through the engine, against the stock pipeline given embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.errors import RequestError
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.w_switch import WSwitch
from compose.models.detect import family_of
from compose.request import AdapterUse, Request
from compose.wording import wording_warnings
from tests import engine
from tests.tiny import tiny_pipeline
from tests.tiny_sdxl import EVERYWHERE, tiny_sdxl

FIRST, SECOND = "cat, " * 30 + "a red dog, " * 3, "a red dog, " * 5
LONG = FIRST + SECOND


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine.files(tmp_path_factory.mktemp("adapters"))


def ask(paths: list[Path], prompt: str, **more: object) -> Request:
    uses = tuple(AdapterUse(str(p), w) for p, w in zip(paths, (0.8, -0.5, 0.6), strict=False))
    options = {"negative": "dog", "steps": 3, "guidance": 5.0, "size": engine.SIZE, "seeds": (3,)}
    return Request(prompt, adapters=uses, **{**options, **more})  # type: ignore[arg-type]


def windows_by_hand(pipe, parts: list[str]) -> torch.Tensor:
    return torch.cat([pipe.encode_prompt(p, "cpu", 1, False)[0] for p in parts], dim=1)


def stock(pipe, asked: Request, cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
    out = pipe(
        prompt_embeds=cond,
        negative_prompt_embeds=uncond,
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance,
        width=engine.SIZE.width,
        height=engine.SIZE.height,
        generator=torch.Generator("cpu").manual_seed(asked.seeds[0]),
        output_type="latent",
    )
    return out.images


def test_a_long_prompt_beside_a_short_negative_is_bit_equal_to_the_stock_loop() -> None:
    composer = engine.composer()
    asked, pipe = ask([], LONG), composer.family.pipe
    cond, uncond = windows_by_hand(pipe, [FIRST, SECOND]), windows_by_hand(pipe, ["dog", ""])
    got = engine.latents(composer, asked)
    assert torch.equal(got, stock(pipe, asked, cond, uncond))
    engine_short = engine.latents(composer, ask([], FIRST))
    assert (got - engine_short).abs().max() > 1e-3  # the second window is seen
    other_way = ask([], "cat", negative=LONG)
    assert torch.equal(
        engine.latents(composer, other_way),
        stock(pipe, other_way, windows_by_hand(pipe, ["cat", ""]), cond),
    )
    alone = ask([], "cat", negative=LONG, guidance=1.0)  # nobody reads the negative prompt
    assert torch.equal(
        engine.latents(composer, alone), engine.latents(composer, ask([], "cat", guidance=1.0))
    )


def test_adapters_on_the_text_encoder_act_in_every_window_and_in_the_empty_prompt(paths) -> None:
    """Merged weights see the same texts; weights interpolate to the merged encoder's own
    embeddings of nothing.
    """
    composer = engine.composer()
    asked = ask(paths, FIRST + "a (red:1.5) dog, " + SECOND, method=Merge())
    got = engine.latents(composer, asked)
    composer.close()
    pipe = engine.merged_pipeline(composer, paths, [0.8, -0.5, 0.6])
    plain = windows_by_hand(pipe, [FIRST, "a red dog, " + SECOND])
    empty = windows_by_hand(pipe, [""])
    cond = plain.clone()
    cond[:, 77 + 2] = empty[:, 2] + 1.5 * (plain[:, 77 + 2] - empty[:, 2])
    engine.assert_close(got, stock(pipe, asked, cond, windows_by_hand(pipe, ["dog", ""])))
    base = windows_by_hand(composer.family.pipe, [FIRST, "a red dog, " + SECOND])
    assert (base - plain).abs().amax(dim=(0, 2)).min() > 1e-3  # at every position


def test_adapters_on_both_text_encoders_of_sdxl_act_in_every_window(tmp_path) -> None:
    paths = engine.files(tmp_path, pipe=tiny_sdxl(), modules=EVERYWHERE)
    composer = engine.composer(pipe=tiny_sdxl())
    asked = ask(paths, LONG)
    got = engine.latents(composer, asked)
    composer.close()
    pipe = engine.merged_pipeline(composer, paths, [0.8, -0.5, 0.6])
    texts = {}
    for side, parts in (("", [FIRST, SECOND]), ("negative_", ["dog", ""])):
        read = [pipe.encode_prompt(p, do_classifier_free_guidance=False) for p in parts]
        texts[f"{side}prompt_embeds"] = torch.cat([r[0] for r in read], dim=1)
        texts[f"{side}pooled_prompt_embeds"] = read[0][2]
    expected = engine.stock(pipe, asked, prompt=None, negative_prompt=None, **texts)
    engine.assert_close(got, expected)


def test_rows_of_several_images_and_passes_share_their_windows(paths) -> None:
    composer = engine.composer()
    both = engine.latents(composer, ask(paths, LONG, method=Composite(), seeds=(3, 4)))
    alone = engine.latents(composer, ask(paths, LONG, method=Composite(), seeds=(4,)))
    engine.assert_close(both[1], alone[0])


def test_clip_skip_reaches_prompt_and_negative_prompt() -> None:
    composer = engine.composer()
    pipe, asked = composer.family.pipe, ask([], "a red cat", clip_skip=2)

    def skipped(prompt: str) -> torch.Tensor:
        ids = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        states = pipe.text_encoder(ids, output_hidden_states=True).hidden_states
        return pipe.text_encoder.final_layer_norm(states[-2])

    expected = stock(pipe, asked, skipped("a red cat"), skipped("dog"))
    assert torch.equal(engine.latents(composer, asked), expected)
    last = engine.latents(composer, ask([], "a red cat", clip_skip=1))
    assert torch.equal(last, engine.latents(composer, ask([], "a red cat")))
    with pytest.raises(RequestError, match="2 layers"):
        composer.prepare(ask([], "a red cat", clip_skip=3))


def test_no_weights_and_weights_of_one_draw_the_same_picture(paths) -> None:
    composer = engine.composer()
    plain = engine.latents(composer, ask(paths, "a red cat"))
    assert torch.equal(engine.latents(composer, ask(paths, "a (red:1.0) ([cat])")), plain)
    assert (engine.latents(composer, ask(paths, "a (red:1.5) cat")) - plain).abs().max() > 1e-3


def test_w_switch_reads_triggers_under_weights_in_a_long_prompt(tmp_path) -> None:
    paths = engine.files(tmp_path, ranks=(2, 3), trigger="mochi")
    composer = engine.composer()
    asked = ask(paths, LONG + "a (mochi:1.2)", method=WSwitch())
    _, run = composer.latents(composer.prepare(asked))
    assert run.text_options.windows == 2
    with pytest.raises(RequestError, match="trigger words"):
        composer.prepare(ask(paths, LONG, method=WSwitch()))


def warnings(prompt: str, paths: list[Path] = [], **more: object) -> list[str]:  # noqa: B006
    family = family_of(tiny_pipeline())
    prepared = Composer(family, AdapterLibrary(())).prepare(ask(paths, prompt, **more))
    return list(wording_warnings(prepared.request, family, prepared.adapters))


def test_a_long_prompt_loses_nothing_and_a_weighted_trigger_is_found(tmp_path) -> None:
    paths = engine.files(tmp_path, ranks=(2,), trigger="mochi cat")
    assert warnings(LONG + LONG, negative=LONG) == []
    assert warnings("a (mochi [cat]:1.2)", paths) == []
    assert warnings(LONG + "(mochi cat:1.2)", paths) == []
    (absent,) = warnings("a (mochi dog cat:1.2)", paths)
    assert "trigger 'mochi cat' is not in the prompt" in absent
