"""What cannot be loaded, or not so: one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from compose.errors import MissingExtraError, ModelError, RequestError
from compose.models import detect, quantization, source
from compose.models.loading import load
from compose.models.options import LoadOptions
from compose.models.sd15 import StableDiffusion15
from compose.models.source import find
from tests.models import headers
from tests.models.sources import CPU, GPU
from tests.tiny import tiny_pipeline


def test_without_settings_the_way_to_them_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "try_to_load_from_cache", lambda *where: None)
    with pytest.raises(ModelError, match="--model-config") as caught:
        find(str(file))
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model.diffusion_model.middle_block.1.proj_in.weight", "call for are missing"),
        ("first_stage_model.decoder.mid.block_1.conv1.bias", "call for are missing"),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias",
            r"lacks 1 tensors of text_encoder.*layers\.1\.mlp\.fc1\.bias",
        ),
    ],
)
def test_a_file_that_lacks_tensors_is_refused(
    file: Path, settings: Path, tmp_path: Path, gone: str, words: str
) -> None:
    state = load_file(file)
    del state[gone]
    path = tmp_path / "holes.safetensors"
    save_file(state, path)
    with pytest.raises(ModelError, match=words):
        load(str(path), device=CPU, options=LoadOptions(config=str(settings)))


def test_settings_of_another_size_are_refused_in_one_line(
    file: Path, settings: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(settings, tmp_path / "other"))
    config = other / "unet" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "block_out_channels": [16, 16, 24]}))
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load(str(file), device=CPU, options=LoadOptions(config=str(other)))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_settings_of_another_family_are_refused(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = headers.header_file(tmp_path / "xl.safetensors", headers.WHOLE["sdxl"])
    two = {**detect.FAMILIES, "StableDiffusionXLPipeline": StableDiffusion15}
    monkeypatch.setattr(detect, "FAMILIES", two)
    with pytest.raises(ModelError, match="for a StableDiffusionPipeline; expected both of one"):
        find(str(path), LoadOptions(config=str(settings)))


@pytest.mark.parametrize("base", headers.WHOLE)
def test_a_file_of_a_family_that_is_not_there_is_refused(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "FAMILIES", {"SomePipeline": StableDiffusion15})
    path = headers.header_file(tmp_path / "x.safetensors", headers.WHOLE[base])
    with pytest.raises(ModelError, match=r"x\.safetensors .*not supported.*SomePipeline"):
        find(str(path))


def test_a_denoiser_given_as_model(tmp_path: Path) -> None:
    path = headers.header_file(tmp_path / "unet.safetensors", headers.unet(768))
    with pytest.raises(ModelError, match=r"alone; expected a whole model: .*--denoiser"):
        find(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.ckpt", "a pickle"),
        ("x.bin", "a pickle"),
        ("x.gguf", "GGUF file.*--denoiser"),
        ("x.safetensors", "first bytes"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"something else altogether")
    with pytest.raises(ModelError, match=words):
        find(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.safetensors", "no denoiser at"),
        ("x.gguf", "no GGUF file"),
        ("x.ckpt", "holds no denoiser"),
    ],
)
def test_denoisers_of_another_kind(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    if name != "nowhere.safetensors":
        (tmp_path / name).write_bytes(b"something else altogether")
    with pytest.raises(ModelError, match=words):
        find(str(folder), LoadOptions(denoiser=str(tmp_path / name)))


def test_a_denoiser_of_another_family(folder: Path, tmp_path: Path) -> None:
    path = headers.header_file(tmp_path / "x.safetensors", headers.flux(guided=True))
    with pytest.raises(ModelError, match="denoiser of a FluxPipeline"):
        find(str(folder), LoadOptions(denoiser=str(path)))


def test_a_denoiser_of_another_size(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tiny_pipeline(linear_projection=True).unet.state_dict(), path)
    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder), device=CPU, options=LoadOptions(denoiser=str(path)))


def test_a_gguf_file_needs_its_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF and so on")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lora-compose\[gguf\]"):
        find(str(folder), LoadOptions(denoiser=str(tmp_path / "x.gguf")))


def test_settings_for_a_folder_make_no_sense(folder: Path, settings: Path) -> None:
    with pytest.raises(ModelError, match="drop --model-config"):
        find(str(folder), LoadOptions(config=str(settings)))


@pytest.mark.parametrize("field", ["quantize", "offload"])
def test_unknown_options(field: str) -> None:
    with pytest.raises(RequestError, match="'some'"):
        LoadOptions(**{field: "some"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"offload": "model"}, "on a cpu.*--offload"),
        ({"offload": "sequential"}, "on a cpu.*--offload"),
        ({"quantize": "bnb4"}, "on a cpu.*torchao-int8"),
        ({"quantize": "bnb8"}, "on a cpu"),
    ],
)
def test_options_that_need_a_gpu(folder: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(str(folder), device=CPU, options=LoadOptions(**options))


def test_quantising_needs_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lora-compose\[torchao\]"):
        load(str(folder), device=CPU, options=LoadOptions(quantize="torchao-int8"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "torchao-int8", "offload": "sequential"}, "layer by layer"),
        ({"quantize": "bnb4", "stored": True}, "unet is stored quantised already"),
        ({"offload": "sequential", "stored": True}, "layer by layer"),
        ({"quantize": "bnb4", "single": True}, "one file"),
    ],
)
def test_options_that_exclude_each_other(
    folder: Path,
    file: Path,
    settings: Path,
    tmp_path: Path,
    options: dict[str, object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: object())
    given = dict(options)
    model = folder
    if given.pop("single", False):
        model, given["config"] = file, str(settings)
    if given.pop("stored", False):
        model = Path(shutil.copytree(folder, tmp_path / "stored"))
        config = model / "unet" / "config.json"
        stored = {"quantization_config": {"quant_method": "bitsandbytes"}}
        config.write_text(json.dumps({**json.loads(config.read_text()), **stored}))
    with pytest.raises(RequestError, match=words):
        load(str(model), device=GPU, options=LoadOptions(**given))
