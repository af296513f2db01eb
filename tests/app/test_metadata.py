"""What pictures say about themselves."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from compose.errors import RequestError
from compose.fusion.switch import Switch
from compose.prompt import parse_prompt
from compose.request import AdapterUse, Request
from compose.types import Size
from compose_app.infotext import Infotext, read_infotext, write_infotext
from compose_app.metadata import (
    INFOTEXT,
    RECIPE,
    AdapterMark,
    Recipe,
    infotext,
    png_bytes,
    read_recipe,
    read_texts,
)

REQUEST = Request(
    prompt='a "mochi" cat, (ümläut: [猫]:1.3) \\(x\\) BREAK\nsecond line)',
    negative="fog, (rain: heavy:0.5)",
    adapters=(AdapterUse("folder/mochi.safetensors", 0.8, 0.25), AdapterUse("biscuit", -1.0)),
    method=Switch(every=3),
    size=Size(128, 96),
    steps=12,
    guidance=7.25,
    scheduler="euler",
    seeds=(2**40 + 1,),
)
MADE = Recipe(
    request=REQUEST,
    model="some/model, v1",
    fingerprint="0123456789abcdef" * 4,
    adapters=(
        AdapterMark("mochi", "a" * 10, "b" * 12),
        AdapterMark("biscuit", "c" * 10, "d" * 12),
    ),
    versions={"lora-compose": "0.1.0", "torch": "2.13.0"},
    device="cpu",
    dtype="fp32",
    sampler="EulerDiscreteScheduler",
    sha256="e" * 64,
)


def picture(folder: Path, **texts: str) -> Path:
    """A PNG with some text chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        chunks.add_text(key, value)
    Image.new("RGB", (4, 4)).save(folder / "made.png", pnginfo=chunks)
    return folder / "made.png"


def test_a_recipe_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "made.png"
    path.write_bytes(png_bytes(Image.new("RGB", (128, 96)), MADE))
    assert read_recipe(path) == MADE


def test_other_programs_find_what_they_look_for() -> None:
    info = read_infotext(write_infotext(infotext(MADE)))
    parsed = parse_prompt(info.prompt)
    assert parsed.text == REQUEST.prompt
    assert parsed.adapters == (AdapterUse("mochi", 0.8, 0.25), AdapterUse("biscuit", -1.0))
    assert info.negative == REQUEST.negative
    assert info.settings == {
        "Steps": "12",
        "Sampler": "Euler",
        "CFG scale": "7.25",
        "Seed": str(2**40 + 1),
        "Size": "128x96",
        "Model hash": "0123456789",
        "Model": "model, v1",
        "Lora hashes": "mochi: bbbbbbbbbbbb, biscuit: dddddddddddd",
        "Composition": "switch",
        "Version": "lora-compose 0.1.0",
    }


def test_the_text_of_another_program_is_read() -> None:
    info = read_infotext(
        "masterpiece, (cat:1.2) <lora:style_v2:0.7>\non a hill\n"
        "Negative prompt: blurry,\nlow quality\n"
        "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5, Hires upscale: 2, Lora hashes: "style_v2: '
        '00fe94eac62e", Denoising strength: 0.4, Version: v1.10.1'
    )
    assert info.prompt == "masterpiece, (cat:1.2) <lora:style_v2:0.7>\non a hill"
    assert info.negative == "blurry,\nlow quality"
    assert info.settings["Sampler"] == "DPM++ 2M Karras"
    assert info.settings["Lora hashes"] == "style_v2: 00fe94eac62e"
    assert info.settings["Version"] == "v1.10.1" and len(info.settings) == 11


@pytest.mark.parametrize("text", ["", "a cat", "a cat\nSteps: 1, Seed: 2", "\n\n", ":,:,:"])
def test_a_text_without_settings_is_prompt(text: str) -> None:
    assert read_infotext(text) == Infotext(text.strip())


line = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])).map(str.strip)
lines = st.lists(line, max_size=3).map("\n".join).map(str.strip)
words = lines.filter(lambda text: "Negative prompt:" not in text)
keys = st.from_regex(r"[A-Za-z][A-Za-z0-9 /\-]{0,10}[A-Za-z0-9]", fullmatch=True)
values = st.text(st.characters(exclude_categories=["Cs"]))


@given(words, lines, st.dictionaries(keys, values, min_size=3, max_size=6))
def test_infotext_reads_back_as_it_was(
    prompt: str, negative: str, settings: dict[str, str]
) -> None:
    info = Infotext(prompt, negative, settings)
    assert read_infotext(write_infotext(info)) == info


@given(st.text())
def test_reading_an_infotext_never_fails(text: str) -> None:
    read_infotext(text)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "none"),
        ({INFOTEXT: "a cat\nSteps: 1, Seed: 2, Size: 1x1"}, "another program"),
        ({RECIPE: "{"}, "no JSON"),
        ({RECIPE: "[" * 100_000}, "no JSON"),
        ({RECIPE: "[" * 100 + "]" * 100}, "nested"),
        ({RECIPE: '{"format": 1, "request": NaN}'}, "NaN"),
        ({RECIPE: '"' + "x" * 600_000 + '"'}, "characters"),
        ({RECIPE: "[]"}, "could not be read"),
        ({RECIPE: "7"}, "could not be read"),
        ({RECIPE: "{}"}, "format"),
        ({RECIPE: '{"format": 2}'}, "another version"),
        ({RECIPE: "9" * 10_000}, "no JSON"),
    ],
)
def test_a_picture_without_a_sound_recipe(
    tmp_path: Path, texts: dict[str, str], words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        read_recipe(picture(tmp_path, **texts))
    assert words in str(caught.value) and "made.png" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("request", {"prompt": 7}),
        ("request", {"prompt": "cat", "seeds": [1, 2]}),
        ("request", {"prompt": "cat", "steps": "many"}),
        ("request", {"prompt": "cat", "adapters": [{"name": "a", "weight": "b"}]}),
        ("request", {"prompt": "cat", "adapters": [{"name": 1}]}),
        ("request", {"prompt": "cat", "method": {"name": "none"}}),
        ("request", None),
        ("model", "embedded"),
        ("adapters", [{}]),
        ("adapters", []),
        ("versions", []),
    ],
)
def test_a_recipe_that_makes_no_sense(tmp_path: Path, key: str, value: object) -> None:
    text = json.dumps({**MADE.to_json(), key: value})
    with pytest.raises(RequestError):
        read_recipe(picture(tmp_path, **{RECIPE: text}))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a....", b"\x89PNG" * 99])
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "made.png").write_bytes(content)
    with pytest.raises(RequestError):
        read_texts(tmp_path / "made.png")


@given(data=st.data())
def test_a_damaged_picture_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(png_bytes(Image.new("RGB", (4, 4)), MADE))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(whole[: data.draw(st.integers(8, len(whole)))])
    with suppress(RequestError):
        read_recipe(path)
