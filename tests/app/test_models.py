"""Base models on the command line: where they come from, how they are loaded, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.app.conftest import Run, parsed, refused
from tests.ldm import original_file
from tests.models import headers
from tests.tiny import random_adapter_file, tiny_pipeline

FEW = ("--steps", 1, "--seed", 1, "--size", "48x32", "--json")


@pytest.fixture
def box(model: Path, tmp_path: Path) -> Path:
    """Models and files that are none, and folders that are half there."""
    original_file(tiny_pipeline(), tmp_path / "tiny.safetensors")
    random_adapter_file(tmp_path / "lora.safetensors")
    headers.header_file(tmp_path / "flux.safetensors", headers.flux(guided=True))
    vae = {"encoder.down.0.block.0.norm1.weight": (128,)}
    headers.header_file(tmp_path / "vae.safetensors", vae)
    control = {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}
    headers.header_file(tmp_path / "control.safetensors", control)
    headers.header_file(tmp_path / "cut.safetensors", headers.WHOLE["sd15"], cut=9)
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.ckpt")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "text.safetensors").write_text("no weights at all, but some text")
    for name, gone in (
        ("no_vae", "vae"),
        ("no_weights", "unet/diffusion_pytorch_model.safetensors"),
        ("no_tokenizer", "tokenizer/tokenizer.json"),
    ):
        broken = Path(shutil.copytree(model, tmp_path / name))
        (shutil.rmtree if (broken / gone).is_dir() else Path.unlink)(broken / gone)
    return tmp_path


REFUSED: list[tuple[list[str], list[str]]] = [
    (["--model", "nowhere"], ["no model at nowhere"]),
    (["--model", "models/nowhere.safetensors"], ["no model at models/nowhere.safetensors"]),
    (["--model", "lora.safetensors"], ["lora.safetensors", "a LoRA", "--lora"]),
    (["--model", "vae.safetensors"], ["vae.safetensors", "a VAE alone"]),
    (["--model", "control.safetensors"], ["control.safetensors", "a ControlNet"]),
    (["--model", "cut.safetensors"], ["cut.safetensors", "cut short"]),
    (["--model", "pickle.ckpt"], ["pickle.ckpt", "can run code", ".safetensors"]),
    (["--model", "x.gguf"], ["x.gguf", "--denoiser"]),
    (["--model", "text.safetensors"], ["text.safetensors"]),
    (["--model", "tiny.safetensors"], ["--model-config", "stable-diffusion-v1-5"]),
    (["--model", "tiny.safetensors", "--model-config", "none"], ["no model at none"]),
    (["--model", "tiny.safetensors", "--model-config", "no_tokenizer"], ["tokenizer.json"]),
    (["--model", "no_vae"], ["no_vae", "the folder vae is missing"]),
    (["--model", "no_weights"], ["unet/diffusion_pytorch_model.safetensors is missing"]),
    (["--model", "no_tokenizer"], ["tokenizer/tokenizer.json is missing"]),
    (["--model", "no_weights/unet"], ["a UNet2DConditionModel alone"]),
    (["--model", "embedded", "--model-config", "no_vae"], ["drop --model-config"]),
    (["--denoiser", "nowhere.gguf"], ["no denoiser at nowhere.gguf"]),
    (["--denoiser", "lora.safetensors"], ["a LoRA"]),
    (["--denoiser", "flux.safetensors"], ["flux.safetensors", "StableDiffusionPipeline"]),
    (["--device", "cpu", "--offload", "model"], ["offload model", "--device cuda"]),
    (["--device", "cpu", "--quantize", "bnb4"], ["quantize bnb4", "torchao-int8"]),
    (["--offload", "disk"], ["'disk'", "sequential"]),
    (["--quantize", "int2"], ["'int2'", "bnb4"]),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=lambda v: " ".join(v))
def test_what_cannot_be_loaded(
    run: Run,
    model: Path,
    box: Path,
    flags: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from compose.models import source

    monkeypatch.setattr(source, "try_to_load_from_cache", lambda *where: None)
    before = sorted(box.rglob("*"))
    given = flags if "--model" in flags else ["--model", str(model), *flags]
    refused(run("generate", "cat", *given), *words)
    assert sorted(box.rglob("*")) == before


def test_a_model_given_as_adapter(run: Run, model: Path, box: Path) -> None:
    flags = ("--model", model, "--lora", "tiny.safetensors")
    refused(run("generate", "cat", *flags), "tiny.safetensors", "a whole model")


@pytest.mark.parametrize("base", ["sdxl", "sd3", "flux"])
def test_a_file_of_another_family_is_never_taken_for_one(run: Run, tmp_path: Path, base) -> None:
    """A family that is built refuses for want of settings, another by its pipeline's name."""
    headers.header_file(tmp_path / "x.safetensors", headers.WHOLE[base])
    line = refused(run("generate", "cat", "--model", "x.safetensors"), "x.safetensors")
    assert "not supported" in line or "--model-config" in line


def test_a_file_draws_and_replays_what_its_folder_draws(run: Run, model: Path, box: Path) -> None:
    adapter = ("--lora", "tiny_one:0.8")
    single = ("--model", "tiny.safetensors", "--model-config", model)
    made = parsed(run("generate", "mochi cat", *single, *adapter, *FEW))["images"][0]
    folder = parsed(run("generate", "mochi cat", "--model", model, *adapter, *FEW))["images"][0]
    assert made["sha256"] == folder["sha256"]
    again = parsed(run("replay", made["path"], "--out", "again", "--json"))
    assert again["identical"] is True and again["warnings"] == []
    original_file(tiny_pipeline(seed=4), Path("tiny.safetensors"))
    changed = parsed(run("replay", made["path"], "--out", "again", "--json"))
    assert changed["identical"] is False
    assert any("fingerprint" in warning for warning in changed["warnings"])


def recipe(path: str) -> dict[str, object]:
    with Image.open(path) as image:
        return json.loads(image.info["lora_compose"])


def test_what_changes_pixels_is_written_down_and_replayed(run: Run, model: Path, box: Path) -> None:
    save_file(tiny_pipeline(seed=5).unet.state_dict(), "unet.safetensors")
    plain = parsed(run("generate", "cat", "--model", model, *FEW))["images"][0]
    assert "options" not in recipe(plain["path"])
    seen = {plain["sha256"]}
    for flags, expected in (
        (("--vae-tiling",), {"vae_tiling": True}),
        (("--denoiser", "unet.safetensors"), {"denoiser": "unet.safetensors"}),
    ):
        made = parsed(run("generate", "cat", "--model", model, *flags, *FEW))["images"][0]
        assert made["sha256"] not in seen
        seen.add(made["sha256"])
        assert recipe(made["path"])["options"] == expected
        again = parsed(run("replay", made["path"], "--out", "again", "--json"))
        assert again["identical"] is True and again["warnings"] == []


def test_an_attention_back_end_is_chosen_written_down_and_replayed(
    run: Run, model: Path, box: Path
) -> None:
    flags = ("--attention-backend", "_native_math")
    made = parsed(run("generate", "cat", "--model", model, *flags, *FEW))["images"][0]
    assert recipe(made["path"])["options"] == {"attention_backend": "_native_math"}
    again = parsed(run("replay", made["path"], "--out", "again", "--json"))
    assert again["identical"] is True and again["warnings"] == []
    line = refused(
        run("generate", "cat", "--model", model, "--attention-backend", "sage", *FEW),
        "attention back end sage cannot run here",
    )
    assert "doctor" in line


def test_a_recipe_with_senseless_options_is_refused(run: Run, model: Path) -> None:
    from PIL import PngImagePlugin

    path = parsed(run("generate", "cat", "--model", model, *FEW))["images"][0]["path"]
    for options in ({"quantize": "int2"}, {"vae_tiling": "yes"}, {"denoiser": 3}, ["denoiser"]):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("lora_compose", json.dumps({**recipe(path), "options": options}))
        Image.new("RGB", (8, 8)).save("foreign.png", pnginfo=chunks)
        refused(run("replay", "foreign.png"), "foreign.png")


def test_replay_offloads_when_asked(run: Run, model: Path) -> None:
    path = parsed(run("generate", "cat", "--model", model, *FEW))["images"][0]["path"]
    refused(run("replay", path, "--offload", "model"), "offload model", "cpu")


def test_models_says_what_is_missing(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    folder = Path("cache/models--some--thing/snapshots/abc")
    shutil.copytree(model, folder)
    (folder / "vae" / "config.json").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "cache")
    (found,) = [m for m in parsed(run("models", "--json")) if m["name"] == "some/thing"]
    assert found["family"] == "sd15" and found["available"] is False
    assert "vae/config.json is missing" in found["reason"]
