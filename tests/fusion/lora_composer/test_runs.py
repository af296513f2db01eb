"""LoRA-Composer: whole runs, what they cost, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.attention.masks import on_grid
from compose.errors import RequestError
from compose.fusion.lora_composer import LoraComposer
from compose.regions import Box
from compose.request import AdapterUse
from compose.types import Size
from tests import engine
from tests.attachment import pipelines
from tests.fusion.lora_composer.made import HALVES, LEFT, PLAIN, RIGHT, Made, by_hand, close, made


@pytest.mark.parametrize(
    ("fields", "forwards", "backwards"),
    [
        ({}, 1 + 3 + 3, 3),
        ({"restart": False}, 3 + 3, 3),
        ({"rate": 0.0}, 1 + 3, 0),
        ({"until": 0}, 1 + 1 + 3, 1),
        ({"rate": 0.0, "restart": False}, 3, 0),
    ],
)
def test_what_a_picture_costs(
    here: Made, fields: dict[str, Any], forwards: int, backwards: int
) -> None:
    """Calls for attention alone have the prompt's row and no row of the negative prompt."""
    method = LoraComposer(**fields)
    asked = here.asked(method, steps=3)
    latents, run = here.composer.latents(here.composer.prepare(asked))
    assert not latents.requires_grad and not run.state.loss.requires_grad
    assert run.calls.forwards == forwards and run.calls.backwards == backwards
    assert run.calls.rows == 2 * 3 + (forwards - 3)
    names = [record.rows for record in run.trace]
    assert names.count(("uncond", "cond")) == 3 and names.count(("cond",)) == forwards - 3
    for record in run.trace:
        heard = [name for name, _ in record.streams]
        sides = record.rows
        assert heard == [f"{side}/{name}" for side in sides for name in ("a0", "a1")]


def test_noise_is_put_in_its_place_once_and_keeps_mean_and_deviation(here: Made) -> None:
    method = LoraComposer(rate=0.0)
    run, noise = here.begun(method, seeds=(1, 2))
    with torch.no_grad():
        first = method.adjust(run, run.schedule.step(0), noise)
        second = method.adjust(run, run.schedule.step(1), first)
    assert second is first and run.calls.forwards == 1
    for before, after in zip(noise, first, strict=True):
        close(after.mean(), before.mean(), 1e-5)
        close(after.std(), before.std(), 1e-5)
    assert (first - noise).abs().max() > 1e-3


def test_parts_that_are_on_make_a_difference(here: Made) -> None:
    """Regions leave something out: isolated ones that share the picture cannot stray."""
    how = {"steps": 1, "regions": {"a0": LEFT, "a1": Box(0.5, 0, 1, 0.6)}}
    full = here.latents(LoraComposer(), **how)
    for fields in (
        {"restart": False},
        {"rate": 0.0},
        {"isolate": False},
        {"enhance": 0.0},
        {"fill": 0.0},
        {"restrict": 0.0},
        {"scope": "regional"},
        {"local": "prompt"},
    ):
        assert (here.latents(LoraComposer(**fields), **how) - full).abs().max() > 1e-5, fields


def test_images_side_by_side_are_as_if_each_were_alone(here: Made) -> None:
    method = LoraComposer(patience=1)
    both = here.latents(method, seeds=(1, 2), steps=3)
    for i in range(2):
        close(both[i : i + 1], here.latents(method, seeds=(1 + i,), steps=3), 1e-6)


def test_two_requests_with_other_regions_are_as_if_each_were_the_first(here: Made) -> None:
    places = (HALVES, {"a0": Box(0.1, 0.2, 0.5, 0.6)})
    expected = []
    for regions in places:
        here.composer.close()
        expected.append(here.latents(LoraComposer(), regions=regions, steps=2))
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    for regions, one in zip((*places, places[0]), (*expected, expected[0]), strict=True):
        assert torch.equal(here.latents(LoraComposer(), regions=regions, steps=2), one)


def test_a_region_smaller_than_a_cell_is_heard_and_looked_at(here: Made) -> None:
    """It keeps a cell at every level, on a grid that is not square."""
    spot = {"a0": Box(0.41, 0.43, 0.42, 0.44), "a1": RIGHT}
    method = LoraComposer()
    run, noise = here.begun(method, regions=spot, size=Size(64, 48))
    step = run.schedule.step(0)
    with torch.no_grad():
        heard = method._listening(run, step, noise)
        box = on_grid(run.regions[None, :1], heard.words[0].shape[-2:])[0]
        assert box.sum() == 1
        close(
            method.losses(run, step, noise),
            by_hand(method, heard, on_grid(run.regions[None, :2], box.shape[-2:])[0]),
        )
    with_it = here.latents(LoraComposer(**PLAIN), regions=spot)
    without = here.latents(LoraComposer(**PLAIN), (0.0, 0.5, 0.8), regions=spot)
    assert (with_it - without).abs().max() > 1e-5


def test_a_level_that_the_model_does_not_have_is_refused(here: Made) -> None:
    with pytest.raises(RequestError, match=r"level=4 .*; expected one of (0, )?1, 2"):
        here.composer.prepare(here.asked(LoraComposer(level=4)))


def test_an_adapter_without_words_is_refused(tmp_path: Path) -> None:
    paths = engine.files(tmp_path, ranks=(2, 3), trigger=None)
    composer = engine.composer()
    with pytest.raises(RequestError, match=r"a0 names no words that call it.*--bind a0=WORDS"):
        composer.prepare(engine.request(paths, [1, 1], LoraComposer(), regions=HALVES))
    anywhere = engine.request(paths, [1, 1], LoraComposer(), regions={"a1": LEFT})
    second = AdapterUse(str(paths[1]), region=LEFT, trigger="biscuit dog")
    composer.prepare(replace(anywhere, adapters=(anywhere.adapters[0], second)))


def test_a_prompt_without_the_words_is_refused_where_regions_listen_to_it(here: Made) -> None:
    for local, refused in (("prompt", True), ("phrase", False)):
        asked = replace(here.asked(LoraComposer(local=local)), prompt="a biscuit dog, sunvo style")
        if not refused:
            here.composer.prepare(asked)
            continue
        with pytest.raises(RequestError, match="a0 is not called in the prompt"):
            here.composer.prepare(asked)


def test_nobody_is_warned_of_words_that_only_regions_listen_to(here: Made) -> None:
    """But of those of an adapter that has no region."""
    asked = replace(here.asked(LoraComposer()), prompt="a dog")
    (warning,) = here.composer.prepare(asked).warnings
    assert "adapter a2: its trigger 'sunvo' is not in the prompt" in warning


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_joint_transformers_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    here = made(name, tmp_path)
    with pytest.raises(RequestError, match=f"{name} models have none: there image and text are on"):
        here.composer.prepare(here.asked(LoraComposer()))


def test_it_cannot_be_attached_to_a_pipeline(tmp_path: Path) -> None:
    paths = engine.files(tmp_path)[:1]
    with pytest.raises(RequestError, match=r"texts of its own.*changes the latents"):
        pipelines.attach(
            pipelines.pipeline("text"), [AdapterUse(str(paths[0]), region=LEFT)], LoraComposer()
        )
