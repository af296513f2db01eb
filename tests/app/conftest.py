"""A tiny model, a library of three adapters for it, and a way to run the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from compose_app.cli import main
from tests.tiny import TEXT, random_adapter_file, tiny_folder

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters "one" (text encoder too, trigger "mochi"), "two" and "three"; read only."""
    folder = tmp_path_factory.mktemp("library")
    random_adapter_file(folder / "tiny_one.safetensors", seed=1, text=TEXT, trigger="mochi")
    random_adapter_file(folder / "tiny_two.safetensors", seed=2, layout="diffusers")
    random_adapter_file(folder / "tiny_three.safetensors", seed=3, alpha=1.5)
    return folder


@pytest.fixture
def run(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(library))

    def invoke(*args: Any) -> Result:
        return CliRunner().invoke(main, [str(a) for a in args])

    return invoke


@pytest.fixture
def generate(run: Run, model: Path) -> Run:
    """Run ``generate`` with the tiny model and few steps; later flags win."""

    def invoke(prompt: str, *args: Any) -> Result:
        return run("generate", prompt, "--model", model, "--steps", 2, "--seed", 5, *args)

    return invoke


def parsed(result: Result) -> Any:
    """The JSON of a successful command."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(result: Result, *words: str) -> str:
    """Check that a command ended as the user's mistake: one line, status 2, no result."""
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in lines[0], (word, lines[0])
    return lines[0]
