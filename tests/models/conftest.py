"""A tiny model as a folder, as one file and as bare settings, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import engine
from tests.ldm import original_file
from tests.tiny import tiny_folder, tiny_pipeline


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("folder") / "tiny")


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as in the folder."""
    return original_file(tiny_pipeline(), tmp_path_factory.mktemp("file") / "tiny.safetensors")


@pytest.fixture(scope="session")
def settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder without its weights."""
    bare = tmp_path_factory.mktemp("settings") / "tiny"
    return Path(shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine.files(tmp_path_factory.mktemp("adapters"))
