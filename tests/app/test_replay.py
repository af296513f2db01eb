"""``replay``: the same pixels from nothing but the picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.app.conftest import Run, parsed, refused
from tests.tiny import random_adapter_file, tiny_folder


@pytest.fixture
def made(generate: Run) -> dict[str, str]:
    """A picture with two adapters, by turns, with a seed of its own."""
    flags = ("--lora", "tiny_one:0.8:0.2", "--lora", "tiny_two:-0.5", "--negative", "dog")
    how = ("--method", "switch", "--set", "every=1", "--scheduler", "dpm++", "--size", "40x32")
    (image,) = parsed(generate("mochi cat", *flags, *how, "--steps", 3, "--json"))["images"]
    return dict(image)


def test_replay_gives_the_same_pixels(run: Run, made: dict[str, str]) -> None:
    data = parsed(run("replay", made["path"], "--out", "again", "--json"))
    assert data["identical"] is True and data["warnings"] == []
    (image,) = data["images"]
    assert image["sha256"] == made["sha256"] and image["seed"] == made["seed"]
    assert Path(image["path"]).parent == Path("again")
    assert Path(image["path"]).read_bytes() == Path(made["path"]).read_bytes()


def test_replay_says_so_in_words(run: Run, made: dict[str, str]) -> None:
    path, verdict = run("replay", made["path"], "--out", "again").stdout.splitlines()
    assert Path(path).is_file() and verdict == "identical: true"


def test_a_replay_can_be_replayed(run: Run, made: dict[str, str]) -> None:
    first = run("replay", made["path"], "--out", "again").stdout.splitlines()[0]
    assert parsed(run("replay", first, "--json"))["identical"] is True


def test_an_adapter_that_moved_is_found_by_its_content(
    run: Run, made: dict[str, str], library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(library, moved)
    (moved / "tiny_two.safetensors").rename(moved / "another.safetensors")
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(moved))
    assert parsed(run("replay", made["path"], "--json"))["identical"] is True


def test_a_changed_adapter_is_told(
    run: Run, made: dict[str, str], library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(library, other)
    random_adapter_file(other / "tiny_two.safetensors", seed=99)
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(other))
    result = run("replay", made["path"], "--json")
    data = parsed(result)
    assert data["identical"] is False
    assert any("tiny_two has changed" in w for w in data["warnings"])
    assert any("differs" in w for w in data["warnings"])


def test_a_missing_adapter_is_an_error(
    run: Run, made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(tmp_path / "nothing"))
    refused(run("replay", made["path"]), "tiny_one", "AutoV3")


def test_a_changed_model_is_told(run: Run, tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model", seed=1)
    flags = ("--model", model, "--steps", 1, "--seed", 1)
    path = run("generate", "cat", *flags).stdout.strip()
    shutil.rmtree(model)
    tiny_folder(model, seed=2)
    data = parsed(run("replay", path, "--json"))
    assert data["identical"] is False
    assert any("has changed" in w and "fingerprint" in w for w in data["warnings"])


def test_a_hub_model_is_not_fetched(
    run: Run, made: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def fetch(name: str, *, local_files_only: bool, **more: object) -> str:
        assert name == "some-body/model" and local_files_only
        raise FileNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with Image.open(made["path"]) as image:
        recipe = json.loads(image.info["lora_compose"])
    recipe["model"]["name"] = "some-body/model"
    refused(run("replay", _with_recipe(recipe)), "some-body/model", "--offline")


def _with_recipe(recipe: dict[str, object]) -> Path:
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("lora_compose", json.dumps(recipe))
    Image.new("RGB", (8, 8)).save("foreign.png", pnginfo=chunks)
    return Path("foreign.png")


def test_a_picture_without_recipe(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    refused(run("replay", "plain.png"), "plain.png", "lora_compose")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    refused(run("replay", "photo.jpg"), "photo.jpg", "PNG")
    assert not (tmp_path / "out").exists()
