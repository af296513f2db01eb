"""Models by hub id, against a hub that is a folder on this machine."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from compose.errors import ModelError
from compose_app import hub
from tests.app.conftest import Run, parsed, refused
from tests.ldm import original_file
from tests.tiny import tiny_pipeline

NAME = "some-body/model"


@dataclass
class Hub:
    """What `snapshot_download` does, without a network.

    Attributes:
        remote: the repository.
        cache: a snapshot of it.
        reachable: whether the hub answers.
        fetched: files that were fetched, in order.
    """

    remote: Path
    cache: Path
    reachable: bool = True
    fetched: list[str] = field(default_factory=list)

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None = None,
        allow_patterns: Sequence[str],
        local_files_only: bool,
    ) -> str:
        assert name == NAME and revision in (None, self.cache.name)
        if local_files_only or not self.reachable:
            if not self.cache.is_dir():
                raise FileNotFoundError("Got: ConnectError: Name or service not known\nand more")
            return str(self.cache)
        for path in sorted(p for p in self.remote.rglob("*") if p.is_file()):
            inside = path.relative_to(self.remote).as_posix()
            target = self.cache / inside
            if any(fnmatch.fnmatch(inside, p) for p in allow_patterns) and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
                self.fetched.append(inside)
        return str(self.cache)


@pytest.fixture
def remote(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The tiny model on the hub, among files that nobody should want."""
    import huggingface_hub
    import huggingface_hub.constants

    repository = Path(shutil.copytree(model, tmp_path / "remote"))
    unet = repository / "unet"
    plain = unet / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, unet / "diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(plain, unet / "diffusion_pytorch_model.non_ema.safetensors")
    for name in ("unet/diffusion_pytorch_model.bin", "pipeline.py", "whole.safetensors"):
        (repository / name).write_bytes(b"no")
    (repository / "safety_checker").mkdir()
    (repository / "safety_checker" / "model.safetensors").write_bytes(b"no")
    found = Hub(repository, tmp_path / "snapshots" / "c0ffee")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return found


def weights(files: Sequence[str]) -> list[str]:
    return [name for name in files if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    "name", ["embedded", ".", "a/b/c", "../x", "x", "a/b c", "-a/b", "a/b.safetensors", "a/b.gguf"]
)
def test_what_is_no_hub_id_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_snapshot", None)
    assert hub.local_model(name, offline=False) == name


def test_only_what_is_used_is_fetched(remote: Hub) -> None:
    assert hub.local_model(NAME, offline=False) == str(remote.cache)
    assert weights(remote.fetched) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert {Path(name).suffix for name in remote.fetched} == {".json", ".safetensors"}


def test_a_variant_is_fetched_where_there_is_nothing_else(remote: Hub) -> None:
    (remote.remote / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hub.local_model(NAME, offline=False)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in remote.fetched
    assert "vae/diffusion_pytorch_model.safetensors" in remote.fetched


def test_shards_are_fetched(remote: Hub) -> None:
    from tests.models.test_folder import sharded

    names = [path.name for path in sharded(remote.remote)]
    (remote.remote / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    hub.local_model(NAME, offline=False)
    assert [n for n in weights(remote.fetched) if n.startswith("unet/")] == [
        f"unet/{name}" for name in names
    ]


def test_a_model_that_is_there_whole_needs_no_hub(remote: Hub) -> None:
    hub.local_model(NAME, offline=False)
    remote.reachable, remote.fetched = False, []
    assert hub.local_model(NAME, offline=False) == str(remote.cache)
    assert remote.fetched == []


def test_a_download_that_broke_off_is_finished(remote: Hub) -> None:
    hub.local_model(NAME, offline=False)
    (remote.cache / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    remote.fetched = []
    hub.local_model(NAME, offline=False)
    assert remote.fetched == ["vae/diffusion_pytorch_model.safetensors"]


def test_an_unsupported_pipeline_is_refused_before_its_weights_are_fetched(remote: Hub) -> None:
    index = remote.remote / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "KandinskyPipeline"))
    with pytest.raises(ModelError, match="KandinskyPipeline"):
        hub.local_model(NAME, offline=False)
    assert weights(remote.fetched) == []


def test_a_hub_that_cannot_be_reached(remote: Hub) -> None:
    remote.reachable = False
    with pytest.raises(ModelError, match=r"Name or service not known\)") as caught:
        hub.local_model(NAME, offline=False)
    assert "connection" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="without --offline"):
        hub.local_model(NAME, offline=True)


def test_the_variable_of_the_hub_forbids_fetching_too(
    remote: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    remote.reachable = False  # as the hub's own client has it then
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        hub.local_model(NAME, offline=False)


def test_offline_fetches_nothing(run: Run, remote: Hub) -> None:
    refused(run("generate", "cat", "--model", NAME, "--offline"), NAME, "--offline")
    assert remote.fetched == [] and not remote.cache.exists()


def test_pictures_of_a_hub_model_and_their_replay(run: Run, remote: Hub, model: Path) -> None:
    flags = ("--steps", 1, "--seed", 1, "--json")
    fetched = parsed(run("generate", "cat", "--model", NAME, *flags))["images"][0]
    local = parsed(run("generate", "cat", "--model", model, *flags))["images"][0]
    assert fetched["sha256"] == local["sha256"]
    remote.reachable = False
    again = parsed(run("replay", fetched["path"], "--out", "again", "--json"))
    assert again["identical"] is True and again["warnings"] == []


def test_settings_of_a_file_from_the_hub(run: Run, remote: Hub, model: Path) -> None:
    original_file(tiny_pipeline(), Path("x.safetensors"))
    flags = ("--steps", 1, "--seed", 1, "--json")
    single = ("--model", "x.safetensors", "--model-config", NAME)
    made = parsed(run("generate", "cat", *single, *flags))["images"][0]
    expected = parsed(run("generate", "cat", "--model", model, *flags))["images"][0]
    assert made["sha256"] == expected["sha256"]
    assert weights(remote.fetched) == []
    again = parsed(run("replay", made["path"], "--out", "again", "--json"))
    assert again["identical"] is True and again["warnings"] == []
