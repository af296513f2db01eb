"""What a file holds, from headers with the names and shapes of the published models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn

from compose.adapters import load_adapter
from compose.errors import AdapterFormatError, ModelError
from compose.models.checkpoint import Checkpoint, read_checkpoint
from tests.models import headers
from tests.tiny import random_adapter_file, tiny_pipeline

FLUX_DEV, FLUX_SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
SD3 = "stabilityai/stable-diffusion-3"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def read(folder: Path, shapes: headers.Shapes) -> Checkpoint:
    return read_checkpoint(headers.header_file(folder / "x.safetensors", shapes))


def shapes_of(model: nn.Module) -> headers.Shapes:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("base", "pipeline", "settings", "parts"),
    [
        (
            "sd15",
            "StableDiffusionPipeline",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            ("unet", "vae", "text_encoder"),
        ),
        (
            "sd2",
            "StableDiffusionPipeline",
            "stabilityai/stable-diffusion-2-1",
            ("unet", "vae", "text_encoder"),
        ),
        (
            "sdxl",
            "StableDiffusionXLPipeline",
            SDXL,
            ("unet", "vae", "text_encoder", "text_encoder_2"),
        ),
        (
            "sd3",
            "StableDiffusion3Pipeline",
            f"{SD3}-medium-diffusers",
            ("transformer", "vae", "text_encoder", "text_encoder_2"),
        ),
        (
            "flux",
            "FluxPipeline",
            FLUX_DEV,
            ("transformer", "vae", "text_encoder", "text_encoder_2"),
        ),
    ],
)
def test_a_whole_model_is_known_with_its_parts(tmp_path, base, pipeline, settings, parts) -> None:
    found = read(tmp_path, headers.WHOLE[base])
    assert (found.base, found.pipeline, found.settings) == (base, pipeline, settings)
    assert found.parts == parts and found.whole


@pytest.mark.parametrize(
    ("shapes", "base", "settings"),
    [
        (headers.sd3(38), "sd3", f"{SD3}.5-large"),
        (headers.sd3(24, second=True), "sd3", f"{SD3}.5-medium"),
        (headers.flux(guided=False), "flux", FLUX_SCHNELL),
        (headers.flux(guided=True), "flux", FLUX_DEV),
        (headers.unet(768), "sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (headers.unet(1024), "sd2", "stabilityai/stable-diffusion-2-1"),
        (headers.unet(2048, pooled=True), "sdxl", SDXL),
    ],
)
@pytest.mark.parametrize("prefixed", [False, True])
def test_a_denoiser_alone_is_known(tmp_path, shapes, base, settings, prefixed) -> None:
    found = read(tmp_path, headers.inside(shapes) if prefixed else shapes)
    assert (found.base, found.settings, found.whole) == (base, settings, False)


def _sdxl_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )


def _sd3_transformer(**more: object) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2, **more
    )


def _flux_transformer(guided: bool) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guided,
    )


@pytest.mark.parametrize(
    ("make", "base", "settings"),
    [
        (lambda: tiny_pipeline().unet, "sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (_sdxl_unet, "sdxl", SDXL),
        (_sd3_transformer, "sd3", f"{SD3}-medium-diffusers"),
        (lambda: _sd3_transformer(dual_attention_layers=(0,)), "sd3", f"{SD3}.5-medium"),
        (lambda: _flux_transformer(True), "flux", FLUX_DEV),
        (lambda: _flux_transformer(False), "flux", FLUX_SCHNELL),
    ],
)
def test_a_denoiser_in_the_names_of_diffusers_is_known(tmp_path, make, base, settings) -> None:
    with torch.device("meta"):
        model = make()
    found = read(tmp_path, shapes_of(model))
    assert (found.base, found.settings, found.whole) == (base, settings, False)


def test_marks_of_v_prediction_are_seen(tmp_path) -> None:
    marks = {"v_pred": (0,), "ztsnr": (0,)}
    assert read(tmp_path, {**headers.WHOLE["sdxl"], **marks}).markers == {"v_pred", "ztsnr"}
    assert read(tmp_path, headers.WHOLE["sdxl"]).markers == frozenset()


REFINER = {
    **headers.inside(headers.unet(1280, pooled=True)),
    "conditioner.embedders.0.model.positional_embedding": (77, 1280),
}
INPAINTING = {**headers.WHOLE["sd15"], **headers.inside(headers.unet(768, channels=9))}
CONTROL = {f"control_model.{n}": s for n, s in headers.unet(768).items() if not n.startswith("out")}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (REFINER, "refiner"),
        (INPAINTING, "9 channels"),
        (headers.flux(guided=True, channels=384), "384 channels"),
        ({**headers.WHOLE["sd15"], **CONTROL}, "a ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}, "a ControlNet"),
        ({"ip_adapter.1.to_k_ip.weight": (320, 768)}, "an IP-Adapter"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 8)}, "a LoRA.*--lora"),
        ({"unet.conv_in.hada_w1_a": (4, 8)}, "LoHa"),
        ({"encoder.down.0.block.0.norm1.weight": (128,)}, "a VAE alone"),
        ({"decoder.up_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}, "a VAE alone"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "a CLIP text encoder alone"),
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8)}, "a T5 text encoder alone"),
        ({"emb_params": (4, 768)}, "a textual inversion embedding"),
        ({"down_blocks.0.motion_modules.0.norm.weight": (320,)}, "AnimateDiff"),
        ({**headers.flux(guided=False), "distilled_guidance_layer.in_proj.bias": (8,)}, "Chroma"),
        ({"single_stream_modulation.lin.weight": (8, 8)}, r"FLUX\.2"),
        ({"some.weight": (2, 2)}, "no model that is known.*some.weight"),
        ({}, "no tensor at all"),
    ],
)
def test_what_is_no_base_model_is_refused_by_name(tmp_path, shapes, words) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        read(tmp_path, shapes)
    assert "x.safetensors" in str(caught.value)


def test_a_file_that_is_cut_short_is_refused(tmp_path) -> None:
    path = headers.header_file(tmp_path / "cut.safetensors", headers.WHOLE["sd15"], cut=1)
    with pytest.raises(ModelError, match="cut short"):
        read_checkpoint(path)


def test_files_larger_than_any_adapter_are_read(tmp_path) -> None:
    shapes = {**headers.WHOLE["flux"], "more.weight": (6 * 2**10, 2**20)}
    path = headers.header_file(tmp_path / "large.safetensors", shapes)
    assert path.stat().st_size > 12 * 2**30  # a hole, no bytes on the disk
    assert read_checkpoint(path).base == "flux"


def test_a_lora_file_of_the_library_is_no_model(tmp_path) -> None:
    path = random_adapter_file(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="a LoRA"):
        read_checkpoint(path)


@pytest.mark.parametrize("base", headers.WHOLE)
def test_a_model_is_no_lora(tmp_path, base) -> None:
    pipe: StableDiffusionPipeline = tiny_pipeline()
    path = headers.header_file(tmp_path / "model.safetensors", headers.WHOLE[base])
    with pytest.raises(AdapterFormatError, match="whole model"):
        load_adapter(path, {"unet": pipe.unet})
