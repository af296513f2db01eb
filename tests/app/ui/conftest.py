"""The app as a process of its own, and a browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SHOTS = ROOT / "build" / "screenshots"
"""Where screenshots are kept."""
PATIENCE = 300  # seconds for anything at all; a loaded machine takes its time
CHROMIUM = "LORA_COMPOSE_CHROMIUM"
"""Environment variable with the path of a Chromium."""


@dataclass(frozen=True)
class Served:
    """An app that runs.

    Attributes:
        url: its address.
        out: its output folder.
        log: what it wrote to the terminal.
    """

    url: str
    out: Path
    log: Path


def needs_gradio() -> None:
    """Skip where the extra is missing. Gradio itself is not imported into the tests: it leaves
    sockets unclosed."""
    if find_spec("gradio") is None:
        pytest.skip("needs gradio, the extra app")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
        except OSError:
            process.poll()
        else:
            return
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def served(
    model: Path, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """`lora-compose app` with the tiny model."""
    needs_gradio()
    folder, port = tmp_path_factory.mktemp("app"), free_port()
    log, out = folder / "log", folder / "out"
    words = ["app", "--port", str(port), "--model", str(model), "--out", str(out)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "compose_app.cli", *words],
            cwd=folder,
            env={**os.environ, "LORA_COMPOSE_ADAPTERS": str(library)},
            stdout=stream,
            stderr=stream,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        up(url, process, log)
        yield Served(url, out, log)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (make test)")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get(CHROMIUM) or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(
            f"no Chromium here: make test installs it where apt-get works, else set ${CHROMIUM}"
        )
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic")
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=flags)
        yield chromium
        chromium.close()
