"""Training one adapter: it learns, and the base stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import ConceptError, ModelError
from compose.train import lora
from compose.train.lora_config import LoraConfig
from compose.train.lora_data import Bank
from compose.train.lora_loss import noised
from compose.train.lora_words import Words
from tests.train.lora_pipeline import QUICK, configure, tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture
def config(tmp_path: Path) -> LoraConfig:
    return configure(tmp_path)


def snapshot(pipe: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}


def test_loss_falls_on_a_single_latent(pipe: Any, config: LoraConfig) -> None:
    latent, texts = torch.randn(1, 4, 8, 8), torch.randn(2, 40, 32)
    words = Words(*(torch.zeros(2, 40, dtype=torch.bool),) * 2)
    bank = Bank(latent, torch.zeros_like(latent), 1.0, texts, words, torch.tensor([[1]]))
    quick: dict[str, Any] = {
        "steps": 60,
        "batch": 8,
        "rank": 8,
        "alpha": 8.0,
        "lr": 1e-2,
        "targets": "wide",
    }
    settings = replace(config.settings, **quick)
    losses: list[float] = []
    with lora.adapted(pipe.unet, settings) as parameters:
        lora._optimise(
            pipe, parameters, [(bank, 8)], settings, lambda _done, _all, loss: losses.append(loss)
        )
    assert sum(losses[-10:]) < 0.65 * sum(losses[:10])


def test_training_leaves_the_base_bit_identical(
    pipe: Any, config: LoraConfig, tmp_path: Path
) -> None:
    before, flags = snapshot(pipe), [p.requires_grad for p in pipe.unet.parameters()]
    random_state = torch.get_rng_state()
    lora.train_lora(config, pipe=pipe, out=tmp_path / "mine.safetensors")
    after = snapshot(pipe)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == [p.requires_grad for p in pipe.unet.parameters()]
    assert all(p.grad is None for p in pipe.unet.parameters())
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_targets_give_back_the_clean_latents(prediction: str, min_snr: float | None) -> None:
    clean, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    alphas = torch.tensor([0.99, 0.5, 0.01])
    velocity = prediction == "v_prediction"
    noisy, target, weight = noised(clean, noise, alphas, velocity=velocity, min_snr=min_snr)
    signal, sigma = alphas.sqrt()[:, None, None, None], (1 - alphas).sqrt()[:, None, None, None]
    found = signal * noisy - sigma * target if velocity else (noisy - sigma * target) / signal
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=1e-4)
    # the clean latents' error counts min(snr, cap), plain velocity: snr + 1, plain noise: snr
    snr = alphas / (1 - alphas)
    counts = weight * (snr + 1 if velocity else snr)
    wanted = snr.clamp(max=min_snr) if min_snr else (snr + 1 if velocity else snr)
    torch.testing.assert_close(counts, wanted)


def test_an_interrupted_training_leaves_nothing(
    pipe: Any, config: LoraConfig, tmp_path: Path
) -> None:
    def stop(done: int, _total: int, _loss: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        lora.train_lora(config, pipe=pipe, out=tmp_path / "out" / "mine.safetensors", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]
    after = snapshot(pipe)
    assert before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


def test_bases_that_cannot_be_trained_are_refused(config: LoraConfig, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    with pytest.raises(ModelError, match="predicts 'sample', epsilon or v_prediction is expected"):
        lora.train_lora(config, pipe=tiny_pipeline("sample"), out=out)
    with pytest.raises(ModelError, match=r"in torch\.bfloat16, torch\.float32 is expected"):
        lora.train_lora(config, pipe=tiny_pipeline().to(torch.bfloat16), out=out)


def test_a_file_is_trained_from_a_saved_pipeline(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "base")
    configure(tmp_path)
    seen: list[tuple[int, int]] = []
    file = lora.train_file(
        tmp_path / "mine.yaml",
        model=tmp_path / "base",
        out=tmp_path / "made",
        device="cpu",
        overrides=QUICK,
        progress=lambda done, total, _loss: seen.append((done, total)),
    )
    assert file == tmp_path / "made" / "mine.safetensors"
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (tmp_path / "xl").mkdir()
    (tmp_path / "xl" / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionXLPipeline"}'
    )
    for other in ("nowhere", "xl"):
        with pytest.raises(
            ModelError, match=rf"{other} was given, a folder of a Stable Diffusion 1\.x pipeline"
        ):
            lora.load_pipeline(tmp_path / other)


def test_a_name_leads_nowhere_else(config: LoraConfig) -> None:
    assert lora.file_name(config) == "mine.safetensors"
    for name in ("../mine", "a/b", ""):
        with pytest.raises(ConceptError, match="expected one that can be a file's"):
            lora.file_name(replace(config, concept=replace(config.concept, name=name)))
