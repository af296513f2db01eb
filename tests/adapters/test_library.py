"""Libraries list by header, find by name, and stay inside their folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from compose.adapters import AdapterLibrary, file_hashes, inspect, reading
from compose.adapters.library import ENVIRONMENT, AdapterEntry
from compose.errors import AdapterFormatError, AdapterNotFoundError
from tests.adapters import layouts
from tests.adapters.layouts import Raw, Truth, write


def make(path: Path, rank: int = 2, **metadata: str) -> Path:
    tensors = {
        "unet.a.lora_A.weight": torch.ones(rank, 3),
        "unet.a.lora_B.weight": torch.ones(4, rank),
    }
    texts = {key.replace("__", "."): value for key, value in metadata.items()}
    return write(tensors, path.with_name(path.name + ".safetensors"), texts)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    root = tmp_path / "shelf"
    make(root / "mochi", modelspec__trigger_phrase="mochi", ss_base_model_version="sd_v1")
    make(root / "Ember", rank=5)
    make(root / "styles" / "sunvo")
    make(root / "styles" / "mochi")
    make(root / "old" / "sunvo")
    (root / "broken.safetensors").write_bytes(b"")
    (root / "readme.txt").write_text("hello")
    return root


def names(library: AdapterLibrary) -> list[str]:
    return [entry.name for entry in library.entries()]


def test_entries_are_sorted_and_described(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "load_tensors", None)  # headers must do
    library = AdapterLibrary([shelf])
    assert names(library) == ["Ember", "mochi", "old/sunvo", "styles/mochi", "styles/sunvo"]
    mochi = library.find("mochi")
    assert mochi == AdapterEntry(
        name="mochi",
        path=shelf / "mochi.safetensors",
        triggers=("mochi",),
        base="sd15",
        rank=2,
        sites=1,
        layout="diffusers",
        size=(shelf / "mochi.safetensors").stat().st_size,
    )
    ((path, reason),) = library.broken
    assert path == shelf / "broken.safetensors" and "is empty" in reason


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("mochi", "mochi"),
        ("MOCHI", "mochi"),
        ("ember", "Ember"),
        ("Ember.safetensors", "Ember"),
        ("styles/mochi", "styles/mochi"),
        ("Styles\\Mochi", "styles/mochi"),
        ("styles/sunvo.safetensors", "styles/sunvo"),
    ],
)
def test_names_are_found(asked: str, found: str, shelf: Path) -> None:
    for paths in (True, False):
        assert AdapterLibrary([shelf]).find(asked, paths=paths).name == found


def test_a_name_in_two_folders_of_one_shelf_needs_its_folder(shelf: Path) -> None:
    library = AdapterLibrary([shelf])
    with pytest.raises(AdapterNotFoundError, match="could be old/sunvo or styles/sunvo"):
        library.find("sunvo")
    (shelf / "old" / "sunvo.safetensors").unlink()
    assert library.find("sunvo").name == "styles/sunvo"


def test_what_is_not_there_is_not_found(shelf: Path) -> None:
    library = AdapterLibrary([shelf])
    with pytest.raises(AdapterNotFoundError, match="did you mean mochi"):
        library.find("mocchi")
    with pytest.raises(AdapterNotFoundError, match=ENVIRONMENT):
        AdapterLibrary([shelf / "nowhere"]).find("mochi")
    with pytest.raises(AdapterNotFoundError):
        library.find("x" * 10_000)
    with pytest.raises(AdapterNotFoundError):
        library.find("")
    with pytest.raises(AdapterFormatError, match="is empty"):
        library.find("broken")


@pytest.mark.parametrize("name", ["../secret", "styles/../../secret", "..", "a\0b", "~/secret"])
def test_names_do_not_climb(name: str, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(shelf.parent / "secret")
    monkeypatch.chdir(shelf)
    for paths in (True, False):
        with pytest.raises(AdapterNotFoundError):
            AdapterLibrary([shelf]).find(name, paths=paths)


def test_a_file_that_is_given_is_taken(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = make(shelf.parent / "secret")
    monkeypatch.chdir(shelf)
    library = AdapterLibrary([shelf])
    for given in (outside, str(outside), "../secret.safetensors"):
        assert library.find(given).name == "secret"
        with pytest.raises(AdapterNotFoundError):
            library.find(given, paths=False)
    with pytest.raises(AdapterFormatError, match="first bytes"):
        library.find("./readme.txt")
    with pytest.raises(AdapterFormatError, match="first bytes"):
        library.find("readme.txt")
    (shelf / "mochi").write_bytes(b"not an adapter")
    assert library.find("mochi").path == shelf / "mochi.safetensors", "a bare word is a name first"


def test_the_earlier_folder_counts(shelf: Path, tmp_path: Path) -> None:
    hidden = make(tmp_path / "second" / "mochi", rank=7)
    make(tmp_path / "second" / "bolt")
    library = AdapterLibrary([shelf, tmp_path / "second"])
    assert library.find("mochi").rank == 2 and library.find("bolt").rank == 2
    assert names(library).count("mochi") == 1
    reasons = dict(library.broken)
    assert reasons[hidden].startswith(f"{hidden}: is hidden by an adapter of the same name")


def test_links_do_not_leave_their_folder(shelf: Path, tmp_path: Path) -> None:
    outside = make(tmp_path / "elsewhere" / "secret")
    (shelf / "link.safetensors").symlink_to(outside)
    (shelf / "folder").symlink_to(outside.parent)
    (shelf / "loop").symlink_to(shelf)
    (shelf / "inside.safetensors").symlink_to(shelf / "mochi.safetensors")
    library = AdapterLibrary([shelf])
    assert "inside" in names(library) and "link" not in names(library)
    left = {path.name for path, reason in library.broken if "link out of its folder" in reason}
    assert left == {"link.safetensors", "folder"}
    for name in ("link", "folder/secret", "secret"):
        with pytest.raises(AdapterNotFoundError):
            library.find(name)
    # the folder itself may be a link: its user named it
    (tmp_path / "way").symlink_to(outside.parent)
    assert names(AdapterLibrary([tmp_path / "way"])) == ["secret"]


def test_files_come_and_go(shelf: Path) -> None:
    library = AdapterLibrary([shelf])
    before = library.entries()
    again = library.entries()
    assert all(a is b for a, b in zip(before, again, strict=True)), "read once"
    make(shelf / "bolt")
    assert "bolt" in names(library)
    (shelf / "bolt.safetensors").unlink()
    assert "bolt" not in names(library)
    (shelf / "mochi.json").write_text(json.dumps({"activation text": "by hand"}))
    entry = next(e for e in library.entries() if e.name == "mochi")
    assert entry.triggers == ("by hand",), "a note that appears is seen"


def test_peft_folders_are_adapters(shelf: Path) -> None:
    raws = {"a": Raw(torch.ones(2, 3), torch.ones(4, 2), 1.0)}
    folder = layouts.peft_folder(raws, shelf / "people" / "biscuit")
    (shelf / "people" / "biscuit.json").write_text(json.dumps({"activation text": "biscuit"}))
    library = AdapterLibrary([shelf])
    entry = library.find("biscuit")
    assert entry.name == "people/biscuit" and entry.path == folder
    assert entry.triggers == ("biscuit",) and entry.layout == "peft"
    assert library.find(folder).name == "biscuit"
    assert "people/biscuit" in names(library)
    assert not any("biscuit/" in name for name in names(library))


def test_the_default_library(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, os.pathsep.join([str(shelf), "", str(tmp_path / "gone")]))
    folders = AdapterLibrary.default().folders
    assert folders[0].parts[-3:] == ("compose", "world", "adapters")
    assert folders[1:] == (shelf, tmp_path / "gone")
    (tmp_path / "adapters").mkdir()
    assert AdapterLibrary.default().folders[-1] == Path("adapters")


def test_hashes(shelf: Path) -> None:
    path = shelf / "mochi.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    hashes = AdapterLibrary([shelf]).find("mochi").hashes
    assert hashes == file_hashes(path)
    assert hashes.autov2 == hashlib.sha256(content).hexdigest()[:10]
    assert hashes.autov3 == hashlib.sha256(content[start:]).hexdigest()[:12]
    other = file_hashes(make(shelf / "other", modelspec__title="another header"))
    assert other.payload == hashes.payload and other.sha256 != hashes.sha256


def test_inspect_tells_all(
    truth: Truth, components: dict[str, torch.nn.Module], tmp_path: Path
) -> None:
    path = layouts.kohya(truth, tmp_path / "mochi.safetensors")
    told = inspect(path)
    assert json.loads(json.dumps(told)) == told
    assert told["rank"] == [1, 4] and told["alpha"] == [0.5, 8.0]
    assert told["sites"] == {
        "text_encoder": {"linear": 12},
        "unet": {"1x1": 2, "conv": 3, "linear": 8},
    }
    assert told["layout"] == "kohya" and told["dtypes"] == ["F32"]
    assert told["hashes"]["AutoV2"] == file_hashes(path).autov2
    assert "matched" not in told
    told = inspect(path, components)
    assert len(told["matched"]) == 25 and told["unmatched"] == told["ignored"] == []
