"""``--explain``: the same picture, a sheet beside it, figures in JSON and a line for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from compose_app import explaining
from compose_app.explaining import SHEET
from compose_app.metadata import read_recipe, read_texts
from compose_app.overlays import OPAQUE, colour, outlined, overlaid, pale
from compose_app.panels import Heading, Panel, Row, draw_panels, wrapped
from tests.app.conftest import Run, parsed, refused

TWO = ("mochi cat and a dog", "--lora", "tiny_one", "--lora", "tiny_two:0.5")
PLACED = ("--method", "regional", "--region", "tiny_one=0,0,0.5,1")
FIGURES = (
    *("name", "share", "effect", "region", "bleed", "bleed_if_even", "words", "acted", "looked"),
    "text_encoder_kept",
)


@pytest.mark.parametrize("method", [(), PLACED])
def test_the_picture_and_its_file_are_the_same(generate: Run, method: tuple[str, ...]) -> None:
    plain = parsed(generate(*TWO, *method, "--json"))
    told = parsed(generate(*TWO, *method, "--json", "--explain", "--out", "told"))
    paths = [Path(data["images"][0]["path"]) for data in (plain, told)]
    assert paths[0].name == paths[1].name
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "explain" not in plain["images"][0]
    told["images"][0].pop("explain")
    assert list(told) == list(plain) and list(told["images"][0]) == list(plain["images"][0])


def test_json_holds_what_the_documentation_says(generate: Run) -> None:
    data = parsed(generate(*TWO, *PLACED, "--lora", "tiny_three:0", "--explain", "--json"))
    image = data["images"][0]
    told = image["explain"]
    assert list(told) == ["path", "steps", "calls", "adapters"]
    assert told["steps"] == 2
    assert told["calls"] == {"forwards": 2, "rows": 8, "cached_rows": 0, "backwards": 0}
    assert data["calls"] == {"forwards": 4, "rows": 12, "cached_rows": 0, "backwards": 0}
    one, two, three = told["adapters"]
    assert tuple(one) == tuple(two) == tuple(three) == FIGURES
    assert [a["name"] for a in told["adapters"]] == ["tiny_one", "tiny_two", "tiny_three"]
    assert one["share"] + two["share"] == pytest.approx(1.0, abs=1e-5)
    assert one["region"] == "drawn" and 0 < one["bleed"] < 1 and one["bleed_if_even"] == 0.5
    assert one["words"] == "mochi" and one["looked"] == [0, 1] and one["acted"] == 2
    assert two["region"] is two["bleed"] is two["bleed_if_even"] is two["words"] is None
    assert two["effect"] > 0
    assert (three["share"], three["effect"], three["acted"], three["looked"]) == (0, 0, 0, [])


def test_the_sheet_lies_beside_the_picture_and_carries_the_figures(generate: Run) -> None:
    image = parsed(generate(*TWO, *PLACED, "--explain", "--json"))["images"][0]
    picture, sheet = Path(image["path"]), Path(image["explain"].pop("path"))
    assert sheet.parent == picture.parent and sheet.name == f"{picture.stem}-explain.png"
    assert sorted(Path("out").iterdir()) == sorted([picture, sheet])
    texts = read_texts(sheet)
    assert list(texts) == [SHEET] and json.loads(texts[SHEET]) == image["explain"]
    with Image.open(sheet) as drawn, Image.open(picture) as made:
        drawn.load()
        big = made.convert("RGB").resize((192, 192), Image.Resampling.NEAREST)
        assert drawn.mode == "RGB" and drawn.width > 3 * 192 and drawn.height > 3 * 192
        left = drawn.width - 3 * 202  # of the first of three columns
        found = (drawn.crop((left, y, left + 192, y + 192)) for y in range(drawn.height - 192))
        assert big.tobytes() in {square.tobytes() for square in found}
    again = parsed(generate(*TWO, *PLACED, "--explain", "--json"))["images"][0]["explain"]["path"]
    assert again.endswith("-2-explain.png") and Path(again).read_bytes() == sheet.read_bytes()


def test_people_get_paths_and_one_line_a_picture(generate: Run) -> None:
    result = generate(*TWO, *PLACED, "--explain", "--count", 2)
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    for picture, sheet in zip(lines[::2], lines[1::2], strict=True):
        assert sheet == picture.replace(".png", "-explain.png")
    told = [line for line in result.stderr.splitlines() if "of the change" in line]
    assert [line[:8] for line in told] == ["seed 5: ", "seed 6: "]
    assert "tiny_one made " in told[0] and "outside its region (50% if it were even)" in told[0]
    assert "tiny_two made " in told[0] and told[0].endswith("and has no region")
    assert generate(*TWO, *PLACED, "--explain", "--quiet").stderr == ""
    assert "did nothing" in generate("mochi", "--lora", "tiny_one:0", "--explain").stderr


def test_a_replayed_picture_can_be_explained(generate: Run, run: Run) -> None:
    (made,) = parsed(generate(*TWO, *PLACED, "--json"))["images"]
    data = parsed(run("replay", made["path"], "--explain", "--json", "--out", "again"))
    assert data["identical"] is True
    told = data["images"][0]["explain"]
    assert [a["name"] for a in told["adapters"]] == ["tiny_one", "tiny_two"]
    refused(run("replay", told["path"]), "carries none")


def test_what_cannot_be_explained_is_refused(generate: Run) -> None:
    refused(generate("cat", "--explain"), "--explain was given without adapters", "add --lora")
    refused(generate(*TWO, "--grid", "merge", "--explain"), "--grid and --explain", "--method")
    assert not Path("out").exists()


def test_a_sheet_that_cannot_be_drawn_leaves_nothing(
    generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(explaining, "draw_panels", broken)
    assert generate(*TWO, "--explain").exit_code == 1
    assert not Path("out").exists()


def test_a_recipe_does_not_tell_that_the_picture_was_explained(generate: Run) -> None:
    (made,) = parsed(generate(*TWO, "--explain", "--json"))["images"]
    assert "explain" not in str(read_recipe(Path(made["path"])).to_json())


PICTURE = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)


def test_a_map_covers_a_pale_picture_with_its_colour() -> None:
    size = (4, 4)
    nothing, everything = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    grey = pale(PICTURE, size)
    assert (np.asarray(overlaid(PICTURE, nothing, [colour(0)], size)) == np.rint(grey)).all()
    full = np.asarray(overlaid(PICTURE, everything, [colour(0)], size), np.float64)
    expected = (1 - OPAQUE) * grey + OPAQUE * np.array(colour(0))
    assert np.abs(full - expected).max() <= 0.5


def test_colours_of_several_maps_mix_in_proportion() -> None:
    maps = torch.tensor([[[0.6, 0.0]], [[0.2, 0.5]]])
    hues = [(200, 0, 0), (0, 100, 0)]
    white = Image.new("RGB", (2, 1), (255, 255, 255))
    got = np.asarray(overlaid(white, maps, hues, (2, 1), smooth=False, opaque=1.0), np.float64)
    both = 0.2 * 255 + 0.8 * np.array([150, 25, 0])
    alone = 0.5 * 255 + 0.5 * np.array([0, 100, 0])
    assert np.abs(got[0] - [both, alone]).max() <= 0.5


def test_the_border_of_a_region_is_drawn_inside_it() -> None:
    white = Image.new("RGB", (12, 8), (255, 255, 255))
    region = torch.tensor([[0.0, 1.0]])
    drawn = (np.asarray(outlined(white, region, (1, 2, 3))) == (1, 2, 3)).all(axis=2)
    assert drawn[:, 6:8].all() and not drawn[:, :6].any() and not drawn[:, 8:].any()


def test_every_adapter_has_a_colour_of_its_own() -> None:
    hues = [colour(k) for k in range(24)]
    assert len(set(hues)) == 24 and hues == [colour(k) for k in range(24)]
    assert all(0 <= part <= 255 for hue in hues for part in hue)


def test_texts_of_any_length_stay_inside_the_sheet_and_their_column() -> None:
    long = "a very long name " * 20
    black = Image.new("RGB", (96, 48))
    panel = Panel(black, f"{long}\n{long}")
    how: dict[str, Any] = {"title": long * 3, "subtitle": long, "notes": (long, long)}
    sheet = draw_panels(
        [Row("one", (panel, panel)), Row("two", (panel, Panel(None, "")))],
        [Heading(long, colour(1)), Heading(long)], (96, 48), **how,
    )  # fmt: skip
    pixels = np.asarray(sheet)
    for margin in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (margin == 255).all()
    right = sheet.width - 10 - 96  # of the second column; between the two is nothing but paper
    black = np.flatnonzero((pixels[:, right] == 0).all(axis=1))
    assert (pixels[black[0] - 16 : black[-1] + 130, right - 8 : right - 2] == 255).all()


def test_texts_are_wrapped_between_words() -> None:
    font = ImageFont.load_default(12)
    text = "one two three four five six seven eight nine ten"
    lines = wrapped(text, font, 100)
    assert " ".join(lines) == text and len(lines) > 2
    assert all(font.getlength(line) <= 100 for line in lines)
    short = wrapped(text, font, 100, most=2)
    assert len(short) == 2 and short[0] == lines[0] and short[1].endswith("...")
    assert wrapped("", font, 100) == []
