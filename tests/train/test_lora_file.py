"""An adapter's file: stock diffusers takes all of it, and the header says what it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from compose.errors import ModelError, RequestError
from compose.train import lora
from compose.train.lora_config import TARGETS, LoraConfig
from compose.train.lora_file import base_fingerprint, check_target, write
from tests.train.lora_pipeline import configure, tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture
def config(tmp_path: Path) -> LoraConfig:
    return configure(tmp_path)


def predict(pipe: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    result = pipe("a <v1> cat", num_inference_steps=2, generator=generator, output_type="latent")
    latents: Tensor = result.images
    return latents


@pytest.mark.parametrize("targets", TARGETS)
def test_stock_diffusers_loads_every_key(
    pipe: Any, tmp_path: Path, targets: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(tmp_path, targets=targets, lr=0.05, alpha=1.0)
    file = lora.train_lora(config, pipe=pipe, out=tmp_path / "mine.safetensors")
    before = predict(pipe)
    other = tiny_pipeline()
    assert torch.equal(predict(other), before)
    with caplog.at_level(logging.WARNING):
        other.load_lora_weights(file, adapter_name="mine")
    # the first holds for every file without text encoder factors
    said = [r.getMessage() for r in caplog.records]
    assert [
        text for text in said if not text.startswith("No LoRA keys associated to CLIPText")
    ] == []
    stored = load_file(file)
    loaded = {name for name, _ in other.unet.named_parameters() if ".lora_" in name}
    assert {f"unet.{name.replace('.mine.', '.')}" for name in loaded} == set(stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert not torch.allclose(predict(other), before, atol=1e-3)
    other.unload_lora_weights()
    assert torch.equal(predict(other), before)


def test_the_file_acts_as_the_factors_that_were_trained(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, lr=0.05, alpha=1.0)
    latents, times, texts = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 40, 32)
    with lora.adapted(pipe.unet, config.settings) as parameters, torch.no_grad():
        for parameter in parameters:
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1
            )
        expected = pipe.unet(latents, times, texts).sample
        tensors = lora.factors(pipe.unet, lora._NAME, config.settings.alpha / config.settings.rank)
    write(tmp_path / "mine.safetensors", tensors, {})
    other = tiny_pipeline()
    other.load_lora_weights(tmp_path / "mine.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(
            other.unet(latents, times, texts).sample, expected, atol=2e-3, rtol=0
        )


def test_same_seed_same_bytes(pipe: Any, tmp_path: Path) -> None:
    def bytes_of(name: str, **overrides: object) -> bytes:
        out = tmp_path / f"{name}.safetensors"
        return lora.train_lora(configure(tmp_path, **overrides), pipe=pipe, out=out).read_bytes()

    first = bytes_of("first")
    assert bytes_of("second") == first
    assert bytes_of("third", seed=1) != first


def test_header_says_what_the_file_is(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, alpha=4.0, seed=3)
    file = lora.train_lora(config, pipe=pipe, out=tmp_path / "new" / "mine.safetensors")
    with safe_open(file, "pt") as opened:
        head = opened.metadata()
    assert head["modelspec.sai_model_spec"] == "1.0.1"
    assert head["modelspec.architecture"] == "lora-compose-world/lora"
    assert head["modelspec.implementation"] == "diffusers"
    assert (head["modelspec.title"], head["ss_output_name"]) == ("mine", "mine")
    assert head["modelspec.trigger_phrase"] == "<v1>"
    assert head["modelspec.tags"] == "character, cat"
    assert (head["ss_network_dim"], head["ss_network_alpha"]) == ("2", "2")
    own = json.loads(head["lora_compose"])
    assert (own["category"], own["trigger"], own["class_word"], own["seed"]) == (
        "character",
        "<v1>",
        "cat",
        3,
    )
    assert own["base"] == base_fingerprint(pipe.unet)
    assert own["concept"]["thing"]["colour"] == "teal"
    assert own["training"]["alpha"] == 4.0
    assert own["final_loss"] > 0
    assert "date" not in "".join(head)


def test_a_failed_write_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_bytes(b"older")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(out, {"unet.a.lora_A.weight": torch.zeros(1, 1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]
    assert out.read_bytes() == b"older"


def test_diverged_factors_are_an_error(pipe: Any, config: LoraConfig) -> None:
    with lora.adapted(pipe.unet, config.settings) as parameters, torch.no_grad():
        parameters[0].fill_(1e6)
        with pytest.raises(ModelError, match=r"training diverged.*lower train\.lr"):
            lora.factors(pipe.unet, lora._NAME, 1.0)


def test_targets_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"ending in \.safetensors is expected"):
        check_target(tmp_path / "mine.bin")
    with pytest.raises(RequestError, match="cannot be written to"):
        check_target(tmp_path / "file" / "mine.safetensors")
