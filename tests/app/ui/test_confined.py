"""What browsers may reach and bring."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from compose.errors import AdapterNotFoundError, RequestError
from compose_app.ui.confined import NamedAdapters, inside, kind_of


def picture(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_known_by_their_bytes(form: str) -> None:
    assert kind_of(picture(form)[:64]) == form.lower()


def test_an_adapter_is_known_by_its_bytes(library: Path) -> None:
    assert kind_of((library / "tiny_one.safetensors").read_bytes()[:64]) == "safetensors"


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + bytes(60), b"<svg xmlns='x'>", b"\x80\x04\x95pickle", b"PK\x03\x04"]
)
def test_other_files_are_not_known(data: bytes) -> None:
    assert kind_of(data) is None


def test_only_files_of_the_folder_are_inside(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"s")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert inside(folder / "a.png", folder) == folder / "a.png"
    for name in ("../secret.png", "link.png", "nothing.png", "."):
        with pytest.raises(RequestError):
            inside(folder / name, folder)


def test_adapters_are_had_by_name_only(library: Path, tmp_path: Path) -> None:
    names = NamedAdapters([library])
    assert names.find("tiny_one").name == "tiny_one"
    for path in (library / "tiny_one.safetensors", "../tiny_one", tmp_path):
        with pytest.raises(AdapterNotFoundError):
            NamedAdapters([tmp_path]).find(path, paths=True)
