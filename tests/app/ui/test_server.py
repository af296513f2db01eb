"""The server under the page, by plain HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from compose_app.commands import app as app_command
from tests.app.conftest import Run, refused
from tests.app.ui.conftest import PATIENCE, Served, needs_gradio

EDGE = "edge"


def posted(url: str, name: str, data: bytes) -> int:
    """Status of an upload."""
    head = f'--{EDGE}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{EDGE}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={EDGE}"}
    return answered(urllib.request.Request(f"{url}/gradio_api/upload", body, kind))


def answered(request: urllib.request.Request | str) -> int:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_only_pictures_and_adapters_are_taken(served: Served, library: Path) -> None:
    adapter = (library / "tiny_one.safetensors").read_bytes()
    assert posted(served.url, "a.safetensors", adapter) == 200
    assert posted(served.url, "a.png", b"#!/bin/sh\n" + bytes(100)) == 415
    assert posted(served.url, "a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>") == 415


def test_large_files_are_not_taken(served: Served) -> None:
    assert posted(served.url, "a.png", b"\x89PNG\r\n\x1a\n" + bytes(33 * 2**20)) == 413


@pytest.mark.parametrize("path", ["/etc/passwd", "{log}", "{out}/../log", "../../../../etc/passwd"])
def test_nothing_outside_its_folders_is_readable(served: Served, path: str) -> None:
    wanted = path.format(log=served.log, out=served.out)
    assert answered(f"{served.url}/gradio_api/file={wanted}") in (403, 404)


def test_no_page_names_another_machine(served: Served) -> None:
    with urllib.request.urlopen(served.url, timeout=PATIENCE) as answer:
        text = answer.read().decode()
    for host in ("googleapis", "gstatic", "cdnjs", "huggingface.co/", "gradio.app/g"):
        assert host not in text


def test_an_open_door_for_other_machines_is_refused(run: Run) -> None:
    needs_gradio()
    refused(run("app", "--host", "0.0.0.0"), "--auth")
    refused(run("app", "--auth", "nobody"), "NAME:PASSWORD")


def test_without_gradio_the_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_command, "find_spec", lambda name: None)
    refused(run("app"), "lora-compose[app]")
