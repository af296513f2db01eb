"""Files for another base are refused by its name, and files for this one are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compose.adapters import inspect, load_adapter
from compose.adapters.bases import base_of_file
from compose.adapters.outline import read_outline
from compose.errors import AdapterMismatchError
from tests.adapters import models
from tests.adapters.layouts import write
from tests.adapters.models import parts

Modules = dict[str, tuple[int, int]]
"""Name of a module in a file to d_in and d_out."""


def file(path: Path, modules: Modules, **header: str) -> Path:
    tensors: dict[str, Tensor] = {}
    for stem, (d_in, d_out) in modules.items():
        down, up = "lora_A", "lora_B"
        if stem.startswith("lora_"):
            down, up = "lora_down", "lora_up"
        elif stem.endswith(("_lora1", "_lora2", "_lora")):
            down, up = "down", "up"
        tensors[f"{stem}.{down}.weight"] = torch.ones(2, d_in)
        tensors[f"{stem}.{up}.weight"] = torch.ones(d_out, 2)
    return write(tensors, path, {k.replace("__", "."): v for k, v in header.items()})


UNET = "down_blocks.0.attentions.0.transformer_blocks.0"
PIXART = "transformer.transformer_blocks.0.attn2.to_k"
QWEN = "transformer.transformer_blocks.0.attn.add_k_proj"
FLAT = "lora_unet_input_blocks_4_1_transformer_blocks_0"

# Module names as trainers write them, with what they tell, and the layout.
FILES: tuple[tuple[Modules, str, str], ...] = (
    ({f"unet.{UNET}.attn2.to_k": (768, 320)}, "sd15", "diffusers"),
    ({f"{FLAT}_attn2_to_k": (768, 320)}, "sd15", "kohya-sgm"),
    ({f"{FLAT}_attn2_to_k": (1024, 320)}, "sd2", "kohya-sgm"),
    ({f"{FLAT}_attn2_to_k": (2048, 640)}, "sdxl", "kohya-sgm"),
    ({f"unet.{UNET}.attn2.to_v": (2048, 640)}, "sdxl", "diffusers"),
    ({f"{FLAT}_ff_net_2": (8, 8), "lora_te2_text_model_x": (8, 8)}, "sdxl", "kohya-sgm"),
    ({"lora_unet_label_emb_0_0": (8, 8)}, "sdxl", "kohya-sgm"),
    ({"unet.add_embedding.linear_1": (8, 8)}, "sdxl", "diffusers"),
    ({f"diffusion_model.{UNET}.ff.net.2": (8, 8)}, "", "diffusers"),
    ({"lora_unet_joint_blocks_0_x_block_attn_qkv": (8, 24)}, "sd3", "kohya-mmdit"),
    ({"diffusion_model.joint_blocks.0.x_block.mlp.fc1": (8, 8)}, "sd3", "diffusers-mmdit"),
    ({"transformer.transformer_blocks.0.attn2.to_q": (8, 8)}, "sd3", "diffusers"),
    ({"transformer.transformer_blocks.0.attn.add_k_proj": (1536, 1536)}, "sd3", "diffusers"),
    ({"transformer.transformer_blocks.0.attn.add_k_proj": (3072, 3072)}, "flux", "diffusers"),
    ({"lora_transformer_transformer_blocks_0_attn_add_k_proj": (8, 8)}, "", "kohya"),
    ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q": (8, 8)}, "", "kohya"),
    ({"lora_te2_encoder_block_0_layer_0_SelfAttention_q": (8, 8)}, "flux", "kohya"),
    ({"transformer.single_transformer_blocks.0.proj_mlp": (8, 8)}, "flux", "diffusers"),
    ({"lora_unet_double_blocks_0_img_attn_qkv": (8, 24)}, "flux", "kohya-bfl"),
    ({"lora_unet.double_blocks.0.img_attn.qkv.0": (8, 8)}, "flux", "kohya-dotted-bfl"),
    ({"diffusion_model.single_blocks.0.linear1": (8, 56)}, "flux", "diffusers-bfl"),
    ({"base_model.model.single_blocks.0.linear1": (8, 56)}, "flux", "peft-bfl"),
    ({"double_blocks.0.processor.qkv_lora1": (8, 24)}, "flux", "xlabs"),
    (
        {"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (8, 8)},
        "flux2",
        "diffusers",
    ),
    (
        {"transformer.transformer_blocks.0.attn1.to_q": (1152, 1152), PIXART: (4, 4)},
        "",
        "diffusers",
    ),
    (
        {"transformer.transformer_blocks.0.img_mlp.net.2": (3072, 3072), QWEN: (4, 4)},
        "",
        "diffusers",
    ),
    ({"unet.x": (8, 8)}, "", "diffusers"),
)


@pytest.mark.parametrize(("modules", "base", "layout"), FILES)
def test_a_file_tells_its_base_and_layout(
    modules: Modules, base: str, layout: str, tmp_path: Path
) -> None:
    outline = read_outline(file(tmp_path / "a.safetensors", modules))
    assert (base_of_file(outline), outline.layout) == (base, layout)


@pytest.mark.parametrize(
    ("modules", "stated", "base"),
    [
        ({"unet.x": (8, 8)}, "sd_xl_base_v1", "sdxl"),
        ({f"unet.{UNET}.ff.net.2": (8, 8)}, "Pony", "sdxl"),
        ({f"unet.{UNET}.ff.net.2": (8, 8)}, "Flux.1 D", ""),
        ({f"unet.{UNET}.attn2.to_k": (768, 320)}, "SDXL", "sd15"),
        ({"lora_unet_double_blocks_0_img_mlp_0": (8, 8)}, "sd_v1", "flux"),
        ({"lora_unet_double_blocks_0_img_mlp_0": (8, 8)}, "flux2_dev", "flux2"),
        ({"transformer.transformer_blocks.0.ff_context.net.2": (8, 8)}, "sd3.5", "sd3"),
        ({"transformer.transformer_blocks.0.ff_context.net.2": (8, 8)}, "Wan", ""),
    ],
)
def test_names_and_widths_count_before_words(
    modules: Modules, stated: str, base: str, tmp_path: Path
) -> None:
    outline = read_outline(file(tmp_path / "a.safetensors", modules))
    assert base_of_file(outline, stated) == base


ALLOWED = {"sd15": ("sd15", "sd2"), "sdxl": ("sdxl",), "sd3": ("sd3",), "flux": ("flux",)}
HERE = {"sdxl": "Stable Diffusion XL", "sd3": "Stable Diffusion 3", "flux": "FLUX.1"}
LABELS = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "flux2": "FLUX.2",
    **HERE,
}


@pytest.mark.parametrize(
    ("family", "modules", "base"),
    [(f, m, b) for f in ALLOWED for m, b, _ in FILES if b and (b not in ALLOWED[f] or f == "sd15")],
)
def test_another_base_is_refused_by_name(
    family: str, modules: Modules, base: str, tmp_path: Path
) -> None:
    path = file(tmp_path / "a.safetensors", modules)
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(path, parts(family))
    message = str(caught.value)
    here = HERE.get(family, f"a model with cross-attention {models.TEXT} wide")
    assert message.startswith(f"{path}: is a LoRA for {LABELS[base]}")
    assert (
        f"; expected one for {here}, as this model is; use another adapter, or the model" in message
    )
    assert message.isprintable() and "\n" not in message


def test_the_header_alone_is_enough(tmp_path: Path) -> None:
    modules = {f"unet.{UNET}.attn1.to_q": (8, 8)}
    path = file(tmp_path / "a.safetensors", modules, modelspec__architecture="flux-1-dev/lora")
    load_adapter(path, parts("sd15"))  # a UNet, whatever it says
    path = file(tmp_path / "b.safetensors", modules, ss_base_model_version="sdxl_base_v1-0")
    with pytest.raises(AdapterMismatchError, match="is a LoRA for Stable Diffusion XL; expected"):
        load_adapter(path, parts("sd15"))
    path = file(tmp_path / "c.safetensors", {"lora_unet_x": (8, 8)}, ss_base_model_version="sd_v1")
    with pytest.raises(
        AdapterMismatchError, match=r"is a LoRA for Stable Diffusion 1\.x; expected"
    ):
        load_adapter(path, parts("flux"))


@pytest.mark.parametrize("width", [768, 1024, 77])
def test_the_width_of_the_text_tells_unets_apart(width: int, tmp_path: Path) -> None:
    words = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
    modules = {f"unet.{UNET}.attn1.to_q": (8, 8), f"unet.{UNET}.attn2.to_k": (width, 8)}
    path = file(tmp_path / "a.safetensors", modules)
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(path, {"unet": models.sd1_unet(text=16)})
    made = words.get(width, f"a model with cross-attention {width} wide")
    assert f"is a LoRA for {made} ({width} wide text, not 16); expected one for" in str(
        caught.value
    )
    if width in words:
        adapter, _ = load_adapter(path, {"unet": models.sd1_unet(text=width)})
        assert len(adapter.factors) == 2


def test_a_second_attention_to_the_picture_reads_no_text(tmp_path: Path) -> None:
    """SD3.5 has layers of the name that the cross-attention of UNets has."""
    path = file(tmp_path / "a.safetensors", {"transformer.transformer_blocks.0.attn2.to_k": (8, 8)})
    with pytest.raises(AdapterMismatchError, match=r"of shape \[8, 8\]; expected \[16, 16\] as tr"):
        load_adapter(path, parts("sd3"))


def test_what_could_be_either_is_looked_up(tmp_path: Path) -> None:
    modules = {"transformer.transformer_blocks.0.attn.add_q_proj": (16, 16)}
    path = file(tmp_path / "a.safetensors", modules)
    for family in ("sd3", "flux"):
        assert len(load_adapter(path, parts(family))[0].factors) == 1
    with pytest.raises(AdapterMismatchError, match=r"for Stable Diffusion 3 or FLUX\.1; expected"):
        load_adapter(path, parts("sdxl"))


SECOND = {"lora_te2_text_model_encoder_layers_0_mlp_fc1": (12, 24)}
FIRST_BLOCK = {"lora_unet_input_blocks_1_0_emb_layers_1": (32, 8)}


def test_a_missing_text_encoder_is_reported_by_name(tmp_path: Path) -> None:
    path = file(tmp_path / "a.safetensors", {**FIRST_BLOCK, **SECOND})
    adapter, report = load_adapter(path, {"unet": parts("sdxl")["unet"]})
    assert set(adapter.factors) == {"unet.down_blocks.0.resnets.0.time_emb_proj"}
    assert report.unmatched == tuple(SECOND) and report.lacking == {"text_encoder_2": 1}
    assert "this model has no text_encoder_2 (modules for it: 1)" in report.summary()
    adapter, report = load_adapter(path, parts("sdxl"))
    assert len(report.matched) == 2 and report.lacking == {}


@pytest.mark.parametrize(
    ("family", "stem", "lacking"),
    [
        ("sd3", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "text_encoder_3"),
        ("flux", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "text_encoder_2"),
        ("flux", "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "text_encoder_2"),
        ("flux", "text_encoders.clip_l.transformer.text_model.x", "text_encoder"),
    ],
)
def test_every_family_names_the_text_encoder_it_lacks(
    family: str, stem: str, lacking: str, tmp_path: Path
) -> None:
    denoiser = {"transformer": parts(family)["transformer"]}
    modules = {"transformer.transformer_blocks.0.attn.to_q": (16, 16), stem: (8, 8)}
    _, report = load_adapter(file(tmp_path / "a.safetensors", modules), denoiser)
    assert report.unmatched == (stem,) and report.lacking == {lacking: 1}


def test_a_text_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    wide = dict.fromkeys(SECOND, (1280, 5120))
    path = file(tmp_path / "a.safetensors", {**FIRST_BLOCK, **wide})
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(path, parts("sdxl"))
    message = str(caught.value)
    assert "changes weights of shape [5120, 1280]; expected [24, 12] as text_encoder_2." in message
    assert "both seem to be Stable Diffusion XL, but of different builds" in message


def test_inspect_needs_no_model(tmp_path: Path) -> None:
    modules: Modules = {
        "lora_unet_double_blocks_0_img_attn_qkv": (8, 24),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (8, 8),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q": (8, 8),
    }
    told = inspect(
        file(tmp_path / "a.safetensors", modules, ss_network_module="networks.lora_flux")
    )
    assert (told["base"], told["layout"], told["trainer"]) == ("flux", "kohya-bfl", "sd-scripts")
    assert list(told["sites"]) == ["text_encoder", "text_encoder_2", "transformer"]
    transformer = {"transformer.single_transformer_blocks.0.attn.to_q": (16, 16)}
    software = json.dumps({"name": "ai-toolkit", "version": "0.1"})
    path = file(tmp_path / "b.safetensors", transformer, software=software, ss_output_name="b")
    told = inspect(path)
    assert (told["base"], told["layout"], told["trainer"]) == ("flux", "diffusers", "ai-toolkit")
    told = inspect(file(tmp_path / "c.safetensors", SECOND, ot_branch="master", ss_v2="False"))
    assert (told["base"], told["trainer"]) == ("", "OneTrainer")
    told = inspect(path, {"transformer": models.flux(), "text_encoder": models.clip()})
    assert told["lacking"] == {} and told["unmatched"] == []
