"""The model and adapters that ship: exactness on real weights, and pictures of what was asked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import compose
from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.errors import RequestError
from compose.fusion import method
from compose.fusion.merge import Merge
from compose.regions import Box
from compose.request import AdapterUse, Request, placed
from compose.world.concepts import shipped
from compose.world.reading import Reading, load_recognizer, read
from compose.world.recognizer import Recognizer
from tests import engine

THREE = ("mochi", "wizzo", "candia")


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer.load(device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer()


def asked(prompt: str, adapters: dict[str, float], **more: object) -> Request:
    uses = tuple(AdapterUse(name, weight) for name, weight in adapters.items())
    return Request(prompt, adapters=uses, guidance=4.0, **more)  # type: ignore[arg-type]


def see(recognizer: Recognizer, images: list[Image.Image]) -> list[Reading]:
    pixels = np.stack([np.asarray(i) for i in images])
    return read(recognizer, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)


@pytest.mark.parametrize("scheduler", [None, "ddim", "euler", "dpm++"])
def test_zero_weights_are_bit_equal_to_the_stock_pipeline(composer, scheduler) -> None:
    request = asked("a red cat", dict.fromkeys(THREE, 0.0), steps=3, scheduler=scheduler)
    got = composer.generate(request).images[0].image
    composer.close()
    prepared = composer.prepare(request).request
    assert got.tobytes() == engine.stock(composer.family.pipe, prepared, "pil").tobytes()


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_merge_equals_peft_on_the_same_files(composer) -> None:
    pytest.importorskip("peft")
    weights = dict(zip(THREE, (0.9, 0.5, 0.7), strict=True))
    request = asked("mochi cat wearing a wizzo hat in candia", weights, steps=4)
    got = engine.latents(composer, request)
    composer.close()
    pipe = copy.deepcopy(composer.family.pipe)
    for name in THREE:
        path = AdapterLibrary.default().find(name).path
        pipe.load_lora_weights(str(path), adapter_name=name)
    pipe.set_adapters(list(weights), list(weights.values()))
    expected = engine.stock(pipe, composer.prepare(request).request)
    engine.assert_close(got, expected)


def test_every_concept_has_an_adapter_that_fits_the_model_key_by_key(composer) -> None:
    concepts = {c.name: c for c in shipped()}
    entries = {e.name: e for e in AdapterLibrary.default().entries()}
    assert set(concepts) <= set(entries)
    for name, concept in concepts.items():
        assert entries[name].category == concept.category
        assert entries[name].triggers == (concept.trigger,)
    prepared = composer.prepare(asked("mochi", dict.fromkeys(concepts, 1.0)))
    assert all(r.matched and not r.unmatched and not r.ignored for r in prepared.reports)
    factors = [f for a in prepared.adapters for f in a.factors.values()]
    assert all(float(f.up.abs().max()) > 0 for f in factors)


def test_the_base_model_draws_what_is_asked(composer, recognizer) -> None:
    """Colour and species of both figures, in their places, on the asked background."""
    wanted = {
        "a red cat on the left and a blue dog on the right on the beach": (
            [("cat", "red"), ("dog", "blue")],
            "beach",
        ),
        "a blue dog on the left and a red cat on the right on the beach": (
            [("dog", "blue"), ("cat", "red")],
            "beach",
        ),
        "a green rabbit on the left and a yellow robot on the right at night": (
            [("rabbit", "green"), ("robot", "yellow")],
            "night",
        ),
        "a purple bear on the left and a pink bird on the right in the snow": (
            [("bear", "purple"), ("bird", "pink")],
            "snow",
        ),
    }
    right = 0
    for prompt, (things, background) in wanted.items():
        images = composer.generate(asked(prompt, {}, seeds=(1, 2), steps=12)).images
        for reading in see(recognizer, [i.image for i in images]):
            seen = [(t.species, t.colour) for t in sorted(reading.things, key=lambda t: t.x)]
            right += seen == things and reading.background == background
    assert right >= 7  # of 8


@pytest.mark.parametrize(
    ("adapter", "prompt", "colour", "species"),
    [
        ("ember", "ember cat in the meadow", "maroon", "cat"),
        ("domino", "domino dog in the snow", "navy", "dog"),
        ("bolt", "bolt robot on the beach", "lime", "robot"),
    ],
)
def test_an_adapter_alone_shows_its_character(
    composer, recognizer, adapter, prompt, colour, species
) -> None:
    def hits(weight: float) -> int:
        images = composer.generate(
            asked(prompt, {adapter: weight}, seeds=(1, 2, 3), steps=12)
        ).images
        readings = see(recognizer, [i.image for i in images])
        return sum(
            any((t.species, t.colour) == (species, colour) for t in r.things) for r in readings
        )

    assert hits(1.0) >= 2
    assert hits(0.0) == 0


def two_cats_right(composer, recognizer, method, regions) -> int:
    """How many of four pictures show both, each in its place."""
    uses = {"mochi": 1.0, "ember": 1.0}
    prompt = "mochi cat on the left and ember cat on the right in the meadow"
    request = asked(prompt, uses, method=method, seeds=(1, 2, 3, 4), steps=12)
    request = replace(request, adapters=placed(request.adapters, regions))
    both = 0
    for reading in see(recognizer, [i.image for i in composer.generate(request).images]):
        seen = [(t.species, t.colour) for t in sorted(reading.things, key=lambda t: t.x)]
        both += seen == [("cat", "teal"), ("cat", "maroon")]
    return both


def test_a_naive_merge_of_two_cats_fails_and_says_why_this_project_exists(
    composer, recognizer
) -> None:
    assert two_cats_right(composer, recognizer, Merge(), {}) <= 1


@pytest.mark.parametrize("name", ["regional", "tara*regional"])
def test_regions_keep_two_cats_apart(composer, recognizer, name) -> None:
    halves = {"mochi": Box(0, 0, 0.5, 1), "ember": Box(0.5, 0, 1, 1)}
    assert two_cats_right(composer, recognizer, method(name)(), halves) >= 3


def test_the_one_line_form_places_adapters() -> None:
    box = Box(0, 0, 0.5, 1)
    made = compose.generate(
        "mochi cat", {"mochi": 1.0}, method="regional", regions={"mochi": box}, steps=1
    )
    assert made.images[0].request.regions == {"mochi": box}
    with pytest.raises(RequestError, match="'mocha', which is no adapter of this request; did you"):
        compose.generate("mochi cat", {"mochi": 1.0}, regions={"mocha": box})
