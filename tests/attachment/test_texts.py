"""Text-encoder parts of adapters in a pipeline that encodes its prompt itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compose
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from tests import engine
from tests.attachment import pipelines as tiny

READY = "the pipeline was given embeddings"
VARYING = (Switch(every=1), Composite(), Merge(budget="mean"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4))


def encoded(pipe: Any) -> dict[str, Tensor]:
    """Prompt and negative prompt, encoded by the user."""
    cond, uncond = pipe.encode_prompt(tiny.PROMPT, "cpu", 1, True, tiny.NEGATIVE)
    words = {"prompt": None, "negative_prompt": None}
    return {**words, "prompt_embeds": cond, "negative_prompt_embeds": uncond}


class Seen:
    """What a model is really given, after our hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[dict[str, Any]] = []
        model.register_forward_pre_hook(
            lambda model, args, kwargs: self.calls.append(kwargs), with_kwargs=True
        )


@pytest.mark.parametrize("method", [Merge(), *VARYING], ids=lambda m: m.name)
def test_a_prompt_encoded_by_the_user_carries_every_part_at_its_weight(paths, method) -> None:
    """Shares that vary cannot reach it, which is said; the denoiser's parts are as always."""
    pipe = tiny.pipeline("text")
    merged = engine.merged_pipeline(tiny.composer(pipe), paths, tiny.WEIGHTS[:2])
    expected = encoded(merged)
    with tiny.attach(pipe, paths, method, text_weight=0.0):
        reference = tiny.call("text", pipe, **expected)
    with tiny.attach(pipe, paths, method) as attached:
        ours = encoded(pipe)
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            engine.assert_close(ours[name], expected[name])
        if method == Merge():
            got = tiny.call("text", pipe, **ours)
        else:
            with pytest.warns(compose.AttachWarning, match=READY):
                got = tiny.call("text", pipe, **ours)
            assert [READY in warning for warning in attached.warnings] == [True]
            tiny.call("text", pipe, **ours)  # said once
    engine.assert_close(got, reference)


@pytest.mark.parametrize("method", VARYING, ids=lambda m: m.name)
def test_half_of_the_texts_given_ready_made_is_said_too(paths, method) -> None:
    pipe = tiny.pipeline("img2img")
    given = {**encoded(pipe), "prompt": tiny.PROMPT, "prompt_embeds": None}
    with (
        tiny.attach(pipe, paths, method),
        pytest.warns(compose.AttachWarning, match="give prompt and negative_prompt as text"),
    ):
        tiny.call("img2img", pipe, **given)


@pytest.mark.parametrize("method", VARYING, ids=lambda m: m.name)
def test_embeddings_that_a_callback_changes_are_used_as_they_are(paths, method) -> None:
    pipe = tiny.pipeline("text")
    changed = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0))

    def change(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": changed} if step == 1 else {}

    more = {
        "callback_on_step_end": change,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    with tiny.attach(pipe, paths, method):
        seen = Seen(pipe.unet)
        with pytest.warns(compose.AttachWarning, match="they were changed after it encoded"):
            tiny.call("text", pipe, **more)
    given = [call["encoder_hidden_states"] for call in seen.calls]
    pairs = len(given[0]) // 2
    assert torch.equal(given[2], changed.repeat(pairs, 1, 1))
    assert not torch.equal(given[1], given[2])


@pytest.mark.parametrize("method", VARYING, ids=lambda m: m.name)
def test_adapters_without_a_text_encoder_part_need_no_words(paths, tmp_path, method) -> None:
    pipe = tiny.pipeline("text")
    given = encoded(pipe)
    with tiny.attach(pipe, paths, method, text_weight=0.0) as silent:
        expected = tiny.call("text", pipe, **given)
        assert silent.warnings == []
    bare = engine.files(tmp_path, ranks=(2, 4), text=())
    pipe.text_encoder = pipe.tokenizer = None
    with tiny.attach(pipe, bare, method) as attached:
        assert torch.equal(tiny.call("text", pipe, **given), expected)
    assert attached.warnings == []


def test_every_share_is_encoded_once(paths) -> None:
    """The prompt and the negative prompt: by the pipeline, and alone with each adapter."""
    pipe = tiny.pipeline("text")
    with tiny.attach(pipe, paths, Composite()):
        seen = Seen(pipe.text_encoder)
        tiny.call("text", pipe)
        assert len(seen.calls) == 2 * (1 + 2)
        tiny.call("text", pipe, prompt="biscuit dog", negative_prompt="red")
        assert len(seen.calls) == 2 * 2 * (1 + 2)


@pytest.mark.parametrize("method", VARYING, ids=lambda m: m.name)
def test_a_controlnet_reads_every_part_at_its_weight_which_is_said(paths, method) -> None:
    pipe = tiny.pipeline("controlnet")
    with tiny.attach(pipe, paths, method) as attached:
        seen = Seen(pipe.controlnet)
        with pytest.warns(compose.AttachWarning, match="the ControlNet, which runs once for all"):
            tiny.call("controlnet", pipe)
        assert len(attached.warnings) == 1
        ours = encoded(pipe)
    both = torch.cat([ours["negative_prompt_embeds"], ours["prompt_embeds"]])
    for call in seen.calls:
        assert torch.equal(call["encoder_hidden_states"], both)


def test_a_merge_through_a_controlnet_has_nothing_to_say(paths) -> None:
    pipe = tiny.pipeline("controlnet")
    with tiny.attach(pipe, paths, Merge()) as attached:
        got = tiny.call("controlnet", pipe)
    assert attached.warnings == []
    merged = engine.merged_pipeline(tiny.composer(pipe), paths, tiny.WEIGHTS[:2])
    engine.assert_close(got, tiny.call("controlnet", merged))
