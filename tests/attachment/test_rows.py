"""Which rows a denoiser call has, and which of them an adapter acts on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from compose.attachment.inputs import DenoiserCall
from compose.attachment.pipelines import UNET
from compose.errors import ShapeError
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from compose.gate import Gate
from compose.method import GatedMethod
from compose.run import Run
from compose.types import Step
from tests import engine
from tests.attachment import pipelines as tiny
from tests.attachment.pipelines import generators

METHODS = (Merge(), Switch(every=1), Composite())


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4))


@pytest.mark.parametrize("kind", ["text", "controlnet"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_several_images_of_a_prompt_are_as_if_alone(paths, kind, method) -> None:
    pipe = tiny.pipeline(kind)
    controlled = kind == "controlnet" and method != Merge()
    with tiny.attach(pipe, paths, method, text_weight=0.0 if controlled else None) as attached:
        both = tiny.call(kind, pipe, num_images_per_prompt=2, generator=generators(3, 4))
        assert attached.calls.forwards == 4
        assert len(attached.trace[0].rows) == 2 * 2 * (2 if method == Composite() else 1)
        for row, seed in enumerate((3, 4)):
            alone = tiny.call(kind, pipe, generator=generators(seed))
            engine.assert_close(both[row], alone[0])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_batch_of_prompts_is_as_if_each_were_alone(paths, method) -> None:
    pipe = tiny.pipeline("img2img")
    prompts, negatives = ["mochi cat", "biscuit dog on the beach"], ["red", "blue"]
    with tiny.attach(pipe, paths, method):
        many = tiny.call(
            "img2img",
            pipe,
            prompt=prompts,
            negative_prompt=negatives,
            num_images_per_prompt=2,
            generator=generators(3, 4, 5, 6),
        )
        for k, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
            more = {"prompt": prompt, "negative_prompt": negative}
            alone = tiny.call("img2img", pipe, **more, generator=generators(4 + 2 * k))
            engine.assert_close(many[2 * k + 1], alone[0])


@dataclass(frozen=True, kw_only=True)
class Everything(GatedMethod):
    """A gate with every part, of its own for each image."""

    name: ClassVar[str] = "everything"
    title: ClassVar[str] = "Everything"
    source: ClassVar[str] = "https://example.org"

    def gate(self, run: Run, step: Step) -> Gate:
        g = torch.Generator().manual_seed(step.index)
        rows, count = run.images, len(run.adapters)
        return Gate(
            torch.rand(rows, count, generator=g),
            text=torch.rand(rows, 77, count, generator=g),
            image=torch.rand(rows, count, 16, 24, generator=g),
            site=lambda site: torch.full((count,), 0.5 if site.block == "mid" else 1.0),
            router=lambda site, x: x.mean(dim=tuple(range(1, x.ndim)))[:, None, None].sigmoid(),
        )


@pytest.mark.parametrize("budget", [None, 3])
def test_every_part_of_a_gate_reaches_its_rows(paths, budget) -> None:
    """Per image, token, place, layer and input: against our own loop over two images."""
    composer = engine.composer()
    pipe = composer.family.pipe
    asked = engine.request(paths, [1.0, -0.5], Everything(), seeds=(3, 4))
    with composer:
        expected = engine.latents(composer, asked)
    size = {"width": engine.SIZE.width, "height": engine.SIZE.height}
    with tiny.attach(pipe, paths, Everything(), row_budget=budget):
        more = {"prompt": engine.PROMPT, "num_images_per_prompt": 2, **size}
        got = tiny.call("text", pipe, generator=generators(3, 4), **more)
    assert (got - tiny.call("text", pipe, generator=generators(3, 4), **more)).abs().max() > 0.05
    engine.assert_close(got, expected)


def test_a_denoiser_that_takes_the_guidance_scale_as_an_input(paths) -> None:
    """As consistency-distilled ones do: no negative prompt, and one more input with rows."""
    pipe = tiny.pipeline("img2img")
    two = {"num_images_per_prompt": 2}
    pipe.unet = tiny.changed_unet(pipe.unet, time_cond_proj_dim=8)
    with tiny.attach(pipe, paths, Composite(), text_weight=0.0) as attached:
        got = tiny.call("img2img", pipe, **two, generator=generators(3, 4))
    assert {record.rows for record in attached.trace} == {("cond/0",) * 2 + ("cond/1",) * 2}
    pipe.unet.forward = tiny.averaging(tiny.denoisers(pipe, paths))
    engine.assert_close(got, tiny.call("img2img", pipe, **two, generator=generators(3, 4)))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_without_guidance_there_are_no_rows_for_the_negative_prompt(paths, method) -> None:
    composer = engine.composer()
    asked = engine.request(paths, [1.0, -0.5], method, guidance=1.0)
    with composer:
        expected, run = composer.latents(composer.prepare(asked))
    with tiny.attach(composer.family.pipe, paths, method) as attached:
        assert torch.equal(engine.stock(composer.family.pipe, asked), expected)
    assert attached.trace == run.trace
    assert all(name.startswith("cond") for record in attached.trace for name in record.rows)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_guidance_that_a_callback_switches_off_halfway(paths, method) -> None:
    """diffusers' own callback, which takes the negative prompt's rows out of the embeddings."""
    pipe = tiny.pipeline("text")
    more = {
        "callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1),
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    with tiny.attach(pipe, paths, method) as attached:
        got = tiny.call("text", pipe, **more)
        rows = [len(record.rows) for record in attached.trace]
        assert rows == [4, 4, 2, 2] if method == Composite() else [2, 2, 1, 1]
        assert attached.warnings == []
        whole = tiny.call("text", pipe)
    assert (got - whole).abs().max() > 1e-3
    if method == Merge():
        merged = engine.merged_pipeline(tiny.composer(pipe), paths, tiny.WEIGHTS[:2])
        engine.assert_close(got, tiny.call("text", merged, **more))


@pytest.mark.parametrize("kind", ["text", "controlnet"])
@pytest.mark.parametrize("budget", [1, 3])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_row_budget_changes_the_calls_and_not_the_picture(paths, kind, budget, method) -> None:
    pipe = tiny.pipeline(kind)
    more: dict[str, Any] = {"num_images_per_prompt": 2}
    with tiny.attach(pipe, paths, method, text_weight=0.0) as free:
        expected = tiny.call(kind, pipe, **more)
    with tiny.attach(pipe, paths, method, text_weight=0.0, row_budget=budget) as tight:
        engine.assert_close(tiny.call(kind, pipe, **more), expected)
    assert tight.calls.rows == free.calls.rows
    assert max(len(record.rows) for record in tight.trace) <= budget


@pytest.mark.parametrize("more", [{"guess_mode": True}, {"controlnet_conditioning_scale": 0.5}])
def test_options_of_a_controlnet_keep_their_meaning(paths, more) -> None:
    """A merge through a ControlNet equals merged weights, whatever the ControlNet is told."""
    pipe = tiny.pipeline("controlnet")
    with tiny.attach(pipe, paths, Merge()):
        got = tiny.call("controlnet", pipe, **more)
        assert (got - tiny.call("controlnet", pipe)).abs().max() > 1e-3
    merged = engine.merged_pipeline(tiny.composer(pipe), paths, tiny.WEIGHTS[:2])
    engine.assert_close(got, tiny.call("controlnet", merged, **more))


def test_two_controlnets_at_once(paths) -> None:
    pipe = tiny.pipeline("controlnet")
    second = ControlNetModel.from_config(pipe.controlnet.config).eval()
    pipe.controlnet = MultiControlNetModel([pipe.controlnet, second])
    more = {
        "image": [tiny.picture(2), tiny.picture(3)],
        "controlnet_conditioning_scale": [1.0, 0.5],
    }
    with tiny.attach(pipe, paths, Merge()):
        got = tiny.call("controlnet", pipe, **more)
    merged = engine.merged_pipeline(tiny.composer(pipe), paths, tiny.WEIGHTS[:2])
    engine.assert_close(got, tiny.call("controlnet", merged, **more))


def test_every_input_of_the_denoiser_is_known() -> None:
    """diffusers may add one: then somebody has to say whether it has rows."""
    names = list(UNet2DConditionModel.forward.__wrapped__.__annotations__)
    assert {n for n in names if n != "return"} == UNET.rows | UNET.shared


def denoiser_call(rows: int, **more: Any) -> DenoiserCall:
    latents = torch.arange(float(rows))[:, None, None, None].expand(rows, 4, 2, 2)
    given = {"sample": latents, "timestep": torch.tensor(5), **more}
    return DenoiserCall(UNET, given)


def test_rows_are_taken_wherever_they_lie() -> None:
    """In lists, tuples and dicts, of any shape behind the row axis; what all rows share stays."""
    rows = torch.arange(4.0)
    call = denoiser_call(
        4,
        encoder_hidden_states=rows[:, None, None],
        added_cond_kwargs={"image_embeds": [rows[:, None]], "time_ids": rows},
        down_block_additional_residuals=(rows[:, None], rows),
        cross_attention_kwargs={"ip_adapter_masks": [torch.zeros(1, 1, 8, 8)]},
        class_labels=None,
        return_dict=False,
    )
    text = torch.zeros(5, 1, 1)
    found = call.at([(2, 4), (0, 1), (2, 4)], {"encoder_hidden_states": text})
    picked = [2.0, 3.0, 0.0, 2.0, 3.0]
    assert found["sample"][:, 0, 0, 0].tolist() == picked
    assert found["encoder_hidden_states"] is text
    assert found["added_cond_kwargs"]["image_embeds"][0][:, 0].tolist() == picked
    assert found["added_cond_kwargs"]["time_ids"].tolist() == picked
    assert [r.flatten().tolist() for r in found["down_block_additional_residuals"]] == [picked] * 2
    for name in ("timestep", "cross_attention_kwargs", "class_labels", "return_dict"):
        assert found[name] is call.given[name]


def test_rows_in_their_own_order_are_not_copied() -> None:
    call = denoiser_call(4, encoder_hidden_states=torch.zeros(4, 1, 1))
    found = call.at([(0, 2), (2, 4)], {})
    assert all(found[name] is call.given[name] for name in call.given)


def test_inputs_that_disagree_about_the_rows_are_refused() -> None:
    call = denoiser_call(4, added_cond_kwargs={"image_embeds": [torch.zeros(2, 3)]})
    with pytest.raises(ShapeError, match=r"image_embeds \[2, 3\] beside latents of 4 rows"):
        call.at([(0, 4)], {})
