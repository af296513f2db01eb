"""Regions, masks and bound words on the command line, in recipes and in replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compose.fusion import methods
from compose.regions import Box, Mask
from compose.request import Request
from compose_app.metadata import MAX_RECIPE, read_recipe, read_texts
from tests.app.conftest import Run, parsed

TWO = ("mochi cat and a dog", "--lora", "tiny_one", "--lora", "tiny_two")
HALVES = ("--region", "tiny_one=0,0,0.5,1", "--region", "tiny_two=0.5,0,1,1")
BOUND = ("--bind", "tiny_two=dog")


def soft(path: str, width: int, height: int) -> Mask:
    """A mask with all shades of grey, as a file too."""
    values = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return Mask(width, height, values.tobytes())


def request_of(image: dict[str, Any]) -> Request:
    return read_recipe(Path(image["path"])).request


def test_regions_change_the_picture_and_stand_in_its_recipe(generate: Run) -> None:
    plain = parsed(generate(*TWO, "--json"))["images"][0]
    placed = parsed(generate(*TWO, *HALVES, "--method", "regional", "--json"))["images"][0]
    assert placed["sha256"] != plain["sha256"]
    uses = request_of(placed).adapters
    assert [use.region for use in uses] == [Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)]
    entry = json.loads(read_texts(Path(plain["path"]))["lora_compose"])["request"]["adapters"][0]
    assert "region" not in entry and "trigger" not in entry


def test_a_white_mask_is_a_full_box_is_no_region(generate: Run) -> None:
    Image.new("1", (7, 7), 1).save("white.png")
    hashes = [
        parsed(generate("mochi cat", "--lora", "tiny_one", *flags, "--json"))["images"][0]["sha256"]
        for flags in (
            (),
            ("--method", "regional", "--region", "tiny_one=0,0,1,1"),
            ("--method", "regional", "--mask", "tiny_one=white.png"),
        )
    ]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("method", ["regional", "tara*regional", "switch*regional"])
def test_replay_gives_the_same_pixels_and_the_same_file(
    generate: Run, run: Run, method: str
) -> None:
    mask = soft("grey.png", 40, 24)
    flags = ("--region", "tiny_one=0.1,0,0.55,1", "--mask", "tiny_two=grey.png", *BOUND)
    how = ("--method", method, "--set", f"{'regional.' * ('*' in method)}feather=0.05")
    (made,) = parsed(generate(*TWO, *flags, *how, "--size", "40x24", "--json"))["images"]
    Path("grey.png").unlink()  # the recipe holds all of it
    uses = request_of(made).adapters
    assert uses[1].region == mask and uses[1].trigger == "dog"
    data = parsed(run("replay", made["path"], "--out", "again", "--json"))
    assert data["identical"] is True and data["warnings"] == []
    again = Path(data["images"][0]["path"])
    assert again.read_bytes() == Path(made["path"]).read_bytes()


def test_the_largest_masks_that_are_taken_fit_into_a_picture(generate: Run, run: Run) -> None:
    soft("large.png", 400, 400)  # noise: 156 KiB, whatever one does
    flags = ("--mask", "tiny_one=large.png", "--method", "regional")
    (made,) = parsed(generate(*TWO, *flags, "--json"))["images"]
    assert len(read_texts(Path(made["path"]))["lora_compose"]) < MAX_RECIPE
    assert parsed(run("replay", made["path"], "--json"))["identical"] is True
    result = generate(*TWO, *flags, "--mask", "tiny_two=large.png")
    assert result.exit_code == 2 and "312 KiB when packed" in result.stderr


def test_bound_words_call_an_adapter_that_names_none(generate: Run) -> None:
    one = parsed(generate(*TWO, *BOUND, "--method", "tara", "--json"))["images"][0]
    other = ("--bind", "tiny_two=a dog")
    two = parsed(generate(*TWO, *other, "--method", "tara", "--json"))["images"][0]
    assert one["sha256"] != two["sha256"]


def test_names_may_be_files_with_any_signs(generate: Run, library: Path) -> None:
    odd = Path("a=b,c.safetensors")
    odd.write_bytes((library / "tiny_one.safetensors").read_bytes())
    flags = ("--lora", odd, "--region", f"{odd}=0,0,0.5,1", "--method", "regional")
    (made,) = parsed(generate("mochi cat", *flags, "--json"))["images"]
    assert request_of(made).adapters[0].region == Box(0, 0, 0.5, 1)


def test_a_grid_places_adapters_in_the_methods_that_place_them(generate: Run) -> None:
    wanted = ("--grid", "merge,regional,tara*regional", *HALVES, *BOUND)
    data = parsed(generate(*TWO, *wanted, "--json"))
    assert data["grid"]["columns"][3:] == ["merge", "regional", "tara*regional"]
    by_column = {image["column"]: image for image in data["images"]}
    for name in ("merge", "regional"):
        flags = (*HALVES, "--method", name) if name == "regional" else ()
        alone = parsed(generate(*TWO, *flags, *BOUND, "--json"))["images"][0]
        assert by_column[name]["sha256"] == alone["sha256"]
    assert request_of(by_column["merge"]).regions == {}
    assert request_of(by_column["tiny_one"]).regions == {}
    assert list(request_of(by_column["tara*regional"]).regions) == ["tiny_one", "tiny_two"]
    assert "tara_regional" in by_column["tara*regional"]["path"]


def test_grid_all_takes_the_methods_that_have_what_they_need(generate: Run) -> None:
    without = parsed(generate(*TWO, *BOUND, "--grid", "all", "--json"))["grid"]["columns"]
    assert "regional" not in without and "tara" in without
    placed = parsed(generate(*TWO, *BOUND, *HALVES, "--grid", "all", "--json"))["grid"]["columns"]
    assert set(placed) == {*without, *(n for n, m in methods().items() if "regions" in m.needs)}


def test_other_programs_are_told_the_method(generate: Run) -> None:
    flags = (*HALVES, *BOUND, "--method", "tara*regional")
    (made,) = parsed(generate(*TWO, *flags, "--json"))["images"]
    assert "Composition: tara*regional" in read_texts(Path(made["path"]))["parameters"]
