"""``batch`` on a tiny model: the same pictures as other commands make, in every executor."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from compose.errors import RequestError
from compose_app.metadata import read_recipe
from tests.app.conftest import Run, parsed, refused

SPEC = """
defaults: {{model: {model}, steps: 2, adapters: [tiny_one, tiny_two]}}
together: {together}
items:
  - name: cats
    prompt: mochi cat
    grid: {{method: [merge, switch]}}
    seeds: [5, 6]
  - name: dogs
    prompt: "mochi {{red|blue}} dog"
    count: 2
"""


@pytest.fixture
def spec(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(model=model, together=1))
    return path


@pytest.fixture
def pairs(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "pairs.yaml"
    path.write_text(SPEC.format(model=model, together=2))
    return path


def hashes(data: dict) -> dict[str, str]:
    return {image["item"]: image["sha256"] for image in data["images"]}


def test_pictures_are_those_that_generate_makes(run: Run, generate: Run, spec: Path) -> None:
    data = parsed(run("batch", spec, "--out", "many", "--executor", "inline", "--json"))
    assert set(data) == {
        *("images", "wanted", "made", "failed", "sheets", "manifest", "seconds", "warnings"),
    }
    assert (data["wanted"], data["made"], data["failed"]) == (6, 6, [])
    flags = ("--lora", "tiny_one", "--lora", "tiny_two", "--count", 2, "--json")
    for method in ("merge", "switch"):
        made = parsed(generate("mochi cat", *flags, "--method", method))
        ours = [i["sha256"] for i in data["images"] if i["axes"].get("method") == method]
        assert ours == [image["sha256"] for image in made["images"]]
    assert [Path(path).name for path in data["sheets"]] == ["sheet-cats.png", "sheet-dogs.png"]
    for path in data["sheets"]:
        with Image.open(path) as sheet:
            assert sheet.width > 2 * 192
    again = run("batch", spec, "--out", "many", "--executor", "inline", "--resume", "--json")
    assert hashes(parsed(again)) == hashes(data) and parsed(again)["made"] == 0
    refused(run("batch", spec, "--out", "many", "--executor", "inline"), "--resume")


def test_processes_make_the_same_pictures(run: Run, pairs: Path) -> None:
    here = parsed(run("batch", pairs, "--out", "here", "--executor", "inline", "--json"))
    there = parsed(run("batch", pairs, "--out", "there", "--workers", 1, "--json"))
    assert hashes(there) == hashes(here)
    for image in here["images"]:
        assert Path(image["path"].replace("here", "there")).read_bytes() == (
            Path(image["path"]).read_bytes()
        )


def test_a_picture_made_beside_another_is_replayed_bit_for_bit(run: Run, pairs: Path) -> None:
    data = parsed(run("batch", pairs, "--out", "many", "--executor", "inline", "--json"))
    for image in data["images"]:
        recipe = read_recipe(Path(image["path"]))
        assert recipe.threads == 1 and recipe.beside is not None
        assert len(recipe.beside.rows) == 2
        assert recipe.beside.rows[recipe.beside.index][2] == image["seed"]
        again = parsed(run("replay", image["path"], "--out", "again", "--json"))
        assert again["identical"] is True and again["warnings"] == []
        (made,) = again["images"]
        assert Path(made["path"]).read_bytes() == Path(image["path"]).read_bytes()


def test_what_fails_is_reported_with_status_2_and_the_rest_is_there(run: Run, model: Path) -> None:
    text = SPEC.format(model=model, together=1)
    Path("bad.yaml").write_text(text + "  - {name: odd, prompt: mochi cat, size: 33x33}\n")
    result = run("batch", "bad.yaml", "--out", "many", "--executor", "inline", "--json")
    assert result.exit_code == 2
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert "1 of 7 pictures failed" in line and "odd-0001 after 3 attempts" in line
    data = json.loads(result.stdout)
    assert len(data["images"]) == 6 and data["failed"][0]["item"] == "odd-0001"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--executor", "inline", "--workers", "2"), ("--workers", "inline")),
        (("--address", "auto"), ("--address", "--executor ray")),
        (("--workers", "0"), ("--workers 0",)),
    ],
)
def test_flags_that_make_no_sense(run: Run, spec: Path, flags, words) -> None:
    refused(run("batch", spec, "--out", "many", "--quiet", *flags), *words)
    assert not Path("many").exists()


def test_a_bad_file_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    refused(run("batch", "nothing.yaml", "--out", "many"), "nothing.yaml", "cannot be read")
    Path("bad.yaml").write_text("items:\n  - {name: a, prompt: x, adapters: [tiny_on]}\n")
    refused(run("batch", "bad.yaml", "--out", "many"), "bad.yaml:2: items[0].adapters[0]")
    assert not Path("many").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_ray_that_is_not_there(run: Run, spec: Path) -> None:
    flags = ("--out", "many", "--executor", "ray", "--quiet")
    refused(run("batch", spec, *flags), "lora-compose[ray]")


def test_recipes_that_contradict_themselves() -> None:
    from compose_app.beside import Beside

    rows = [["a", "", 1], ["b", "", 2]]
    assert Beside.from_json(Beside(1, (("a", "", 1), ("b", "", 2))).to_json()).index == 1
    for data in (
        {"index": 2, "rows": rows},
        {"index": True, "rows": rows},
        {"index": 0, "rows": []},
        {"index": 0, "rows": [["a", 1, "b"]]},
        {"index": 0, "rows": rows * 200},
    ):
        with pytest.raises(RequestError, match="make no sense"):
            Beside.from_json(data)
