"""Weights and long prompts from the command line to the picture and back."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from compose_app.infotext import read_infotext
from tests.app.conftest import Run, parsed, refused

EMBER = ("--lora", "ember", "--steps", 2, "--seed", 1, "--json")


def test_the_embedded_model_knows_the_words_under_weights(run: Run) -> None:
    prompts = ("(ember cat:1.3) on the beach", "(ember cat:1) on [(the)] beach")
    weighted, ones = (parsed(run("generate", prompt, *EMBER)) for prompt in prompts)
    plain = parsed(run("generate", "ember cat on the beach", *EMBER))
    assert weighted["warnings"] == ones["warnings"] == []  # neither a missing trigger nor "1.3"
    assert ones["images"][0]["sha256"] == plain["images"][0]["sha256"]
    assert weighted["images"][0]["sha256"] != plain["images"][0]["sha256"]
    (warning,) = parsed(run("generate", "(ember kat:1.3) BREAK beach", *EMBER))["warnings"]
    assert "'kat'" in warning and "1.3" not in warning and "break" not in warning


def test_a_picture_keeps_its_prompt_as_written_and_is_made_again(run: Run) -> None:
    prompt = r"(ember cat:1.3), \(on\) [the beach] BREAK :)"
    path = parsed(run("generate", f"{prompt} <lora:ember:0.8>", *EMBER[2:]))["images"][0]["path"]
    with Image.open(path) as image:
        texts = dict(image.info)
    assert json.loads(texts["lora_compose"])["request"]["prompt"] == prompt
    assert read_infotext(texts["parameters"]).prompt == f"{prompt} <lora:ember:0.8>"
    assert parsed(run("replay", path, "--json"))["identical"] is True


def test_the_end_of_a_long_prompt_is_seen(generate: Run) -> None:
    cat, dog = (parsed(generate("cat, " * 60 + last, "--json")) for last in ("cat", "dog"))
    assert cat["warnings"] == dog["warnings"] == []
    assert cat["images"][0]["sha256"] != dog["images"][0]["sha256"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("a (cat:9)",), ("'cat'", "9", "-5 to 5")),
        (("a (cat:1,3)",), ("'(cat:1,3)'", "(word:1.3)")),
        (("cat", "--negative", "[a:b:0.5]"), ("'[a:b:0.5]'", "not supported")),
        (("cat", "--clip-skip", 3), ("clip_skip 3", "2 layers")),
    ],
)
def test_what_makes_no_sense_is_one_line(
    generate: Run, flags: tuple[object, ...], words: tuple[str, ...]
) -> None:
    refused(generate(*flags), *words)
