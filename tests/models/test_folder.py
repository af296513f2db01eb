"""Folders in diffusers layout that are whole, half there, or something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compose.errors import MissingExtraError, ModelError
from compose.models import quantization
from compose.models.detect import model_folder
from compose.models.folder import check_weights, read_pipeline, stored_quantized
from compose.models.loading import load
from compose.models.source import find
from tests.tiny import random_adapter_file, tiny_folder

CPU = torch.device("cpu")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def sharded(folder: Path, variant: str = "") -> list[Path]:
    """Split the UNet's weights into two shards with an index."""
    plain = folder / WEIGHTS
    state = load_file(plain)
    plain.unlink()
    halves = (dict(list(state.items())[::2]), dict(list(state.items())[1::2]))
    stem = f"diffusion_pytorch_model.{variant}".rstrip(".")
    names = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, plain.with_name(name), metadata={"format": "pt"})
    weight_map = {key: names[n] for n, half in enumerate(halves) for key in half}
    ending = f"safetensors.index.{variant}".rstrip(".")
    index = plain.with_name(f"diffusion_pytorch_model.{ending}.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [plain.with_name(name) for name in names]


def same_weights(folder: Path, other: Path) -> bool:
    mine, theirs = (load(str(f), device=CPU).denoiser.state_dict() for f in (folder, other))
    return all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_whole_folder_is_found(whole: Path) -> None:
    source = find(str(whole))
    assert source.pipeline.name == "StableDiffusionPipeline" and source.variant is None
    assert [p.name for p in source.pipeline.networks()] == ["text_encoder", "unet", "vae"]


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_are_loaded(folder: Path, whole: Path, variant: str) -> None:
    sharded(folder, variant)
    assert find(str(folder)).variant == (variant or None)
    assert same_weights(folder, whole)


def test_a_variant_is_taken_where_there_is_nothing_else(folder: Path, whole: Path) -> None:
    plain = folder / WEIGHTS
    half = plain.with_name("diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(plain, half)
    assert find(str(folder)).variant is None
    plain.unlink()
    assert find(str(folder)).variant == "fp16"
    assert same_weights(folder, whole)


def test_variants_that_do_not_meet_are_refused(folder: Path) -> None:
    for part, stem, variant in (
        ("unet", "diffusion_pytorch_model", "fp16"),
        ("text_encoder", "model", "bf16"),
    ):
        plain = folder / part / f"{stem}.safetensors"
        plain.rename(plain.with_name(f"{stem}.{variant}.safetensors"))
    with pytest.raises(ModelError, match="unet: fp16") as caught:
        check_weights(read_pipeline(folder))
    assert "text_encoder: bf16" in str(caught.value)


@pytest.mark.parametrize(
    "missing",
    [
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        WEIGHTS,
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=f"{missing} is missing") as caught:
        find(str(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "tokenizer", "scheduler"])
def test_a_missing_folder_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"the folder {part} is missing"):
        find(str(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = sharded(folder)[1]
    shard.unlink()
    with pytest.raises(ModelError, match=f"unet/{shard.name} is missing"):
        find(str(folder))


def test_shards_without_their_list_are_refused(folder: Path) -> None:
    sharded(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=r"safetensors\.index\.json is missing"):
        find(str(folder))


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": {"a": "../b.safetensors"}}'])
def test_a_list_of_shards_that_makes_no_sense_is_refused(folder: Path, text: str) -> None:
    sharded(folder)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ModelError, match=index.name):
        find(str(folder))


@pytest.mark.parametrize("path", [WEIGHTS, "text_encoder/model.safetensors"])
def test_a_file_that_is_cut_short_is_named(folder: Path, path: str) -> None:
    file = folder / path
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short") as caught:
        find(str(folder))
    assert str(file) in str(caught.value)


def test_pickles_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"a pickle only \(diffusion_pytorch_model\.bin\)"):
        find(str(folder))


def test_parts_that_nothing_uses_need_not_be_there(folder: Path) -> None:
    index = folder / "model_index.json"
    said = json.loads(index.read_text())
    said["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    said["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index.write_text(json.dumps({**said, "requires_safety_checker": True}))
    pipe = load(str(folder), device=CPU).pipe
    assert pipe.safety_checker is None and pipe.feature_extractor is None


def described(folder: Path, **changes: object) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "KandinskyPipeline"}, "KandinskyPipeline.*StableDiffusionPipeline"),
        ({"_class_name": "StableDiffusionXLInpaintPipeline"}, "not supported"),
        ({"_class_name": ["mine", "MyPipeline"]}, "custom pipelines"),
        ({"_class_name": None}, "_class_name"),
        ({"unet": ["mine", "MyUNet"]}, "unet from mine"),
        ({"unet": [None, None]}, "lists no unet"),
        ({"text_encoder": [None, None]}, "lists no text_encoder"),
    ],
)
def test_other_pipelines_are_refused(folder: Path, changes: dict, words: str) -> None:
    described(folder, **changes)
    with pytest.raises(ModelError, match=words):
        find(str(folder))


def test_folders_of_another_kind_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a UNet2DConditionModel alone"):
        find(str(folder / "unet"))
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="a LoRA that PEFT saved"):
        find(str(lora))
    loose = random_adapter_file(tmp_path / "loose" / "x.safetensors")
    with pytest.raises(ModelError, match=str(loose)):
        find(str(loose.parent))
    with pytest.raises(ModelError, match="it is a file; expected a folder"):
        model_folder(str(loose))  # as training asks for
    with pytest.raises(ModelError, match="check the path"):
        find(str(tmp_path / "nowhere"))


def test_weights_stored_quantised_need_their_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder / "unet" / "config.json"
    said = json.loads(config.read_text())
    said["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.write_text(json.dumps(said))
    assert stored_quantized(read_pipeline(folder)) == {"unet": "bitsandbytes"}
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"unet of .*lora-compose\[bitsandbytes\]"):
        find(str(folder))
