"""What may stand before the names of diffusers: every trainer's way to name a component."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compose.adapters import load_adapter
from tests.adapters import models
from tests.adapters.layouts import Raw, write
from tests.adapters.spelled import dotted, kohya, random_raws
from tests.adapters.whole import clip_raws, flux, sd3, sdxl, truth_of


@pytest.mark.parametrize(
    "spell",
    [
        lambda raws, path: kohya(raws, path, "lora_transformer_"),
        lambda raws, path: kohya(raws, path, "lora_unet_"),
        lambda raws, path: kohya(raws, path, "lycoris_"),
        lambda raws, path: dotted(raws, path, "diffusion_model."),
        lambda raws, path: dotted(raws, path, "base_model.model."),
        lambda raws, path: dotted(raws, path, "transformer."),
        lambda raws, path: dotted(raws, path, ""),
    ],
)
@pytest.mark.parametrize("make", [models.sd3, models.flux])
def test_diffusers_names_behind_every_start(
    make: Callable[[], nn.Module], spell: Callable[..., Path], tmp_path: Path
) -> None:
    """Against the formula: diffusers reads but one or two of these."""
    model = make()
    raws = truth_of({"transformer": model})["transformer"]
    adapter, report = load_adapter(spell(raws, tmp_path / "a.safetensors"), {"transformer": model})
    assert report.unmatched == () and report.fused == 0
    assert set(adapter.factors) == {f"transformer.{path}" for path in raws}
    for path, raw in raws.items():
        factors = adapter.factors[f"transformer.{path}"]
        assert torch.equal(factors.up, raw.folded.flatten(1)) and torch.equal(
            factors.down, raw.down
        )


@pytest.mark.parametrize(
    ("make", "starts"),
    [
        (sdxl, ("lora_te1_text_model_", "lora_te2_text_model_", "")),
        (sd3, ("lora_te1_text_model_", "lora_te2_text_model_", "lora_te3_")),
        (flux, ("lora_te1_text_model_", "", "lora_te3_")),  # sd-scripts
        (flux, ("lora_te1_text_model_", "", "lora_te2_")),  # OneTrainer
        (flux, ("text_encoders.clip_l.transformer.text_model.", "", "text_encoders.t5xxl.")),
        (sd3, ("text_encoders.clip_l.transformer.", "text_encoders.clip_g.", "t5.")),
    ],
)
def test_text_encoders_of_every_family(
    make: Callable[[], dict[str, nn.Module]], starts: tuple[str, str, str], tmp_path: Path
) -> None:
    parts = make()
    t5 = {
        path: tuple(module.weight.shape)
        for path, module in models.t5().named_modules()
        if isinstance(module, nn.Linear)
    }
    expected: dict[str, Raw] = {}
    tensors: dict[str, Tensor] = {}
    encoders = zip(starts, (clip_raws(16), clip_raws(12), random_raws(t5)), strict=True)
    for number, (start, raws) in enumerate(encoders):
        if not start:
            continue
        spell = kohya if start.startswith("lora") else dotted
        tensors |= load_file(spell(raws, tmp_path / f"{number}.safetensors", start))
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        part = "text_encoder_2" if make is flux and number == 2 else names[number]
        level = "text_model." if number < 2 and hasattr(parts[part], "text_model") else ""
        expected |= {f"{part}.{level}{path}": raw for path, raw in raws.items()}
    adapter, report = load_adapter(write(tensors, tmp_path / "a.safetensors"), parts)
    assert report.unmatched == () and set(adapter.factors) == set(expected)
    for site, raw in expected.items():
        assert torch.equal(adapter.factors[site].up, raw.folded)
