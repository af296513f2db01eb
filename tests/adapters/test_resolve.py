"""Files that fit a model in part, not at all, or in two ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compose.adapters import KeyReport, load_adapter, module_shapes, read_adapter, resolve
from compose.errors import AdapterFormatError, AdapterMismatchError
from tests.adapters import layouts
from tests.adapters.layouts import Truth, write

Components = Mapping[str, nn.Module]

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def pair(
    stem: str, d_in: int = 8, d_out: int = 8, kind: str = "lora_A lora_B"
) -> dict[str, Tensor]:
    down, up = kind.split()
    return {
        f"{stem}.{down}.weight": torch.ones(2, d_in),
        f"{stem}.{up}.weight": torch.ones(d_out, 2),
    }


def kohya(stem: str, d_in: int = 8, d_out: int = 8) -> dict[str, Tensor]:
    return pair(stem, d_in, d_out, "lora_down lora_up")


def test_what_the_model_lacks_is_reported(components: Components, tmp_path: Path) -> None:
    tensors = {
        **kohya("lora_unet_" + QUERY.replace(".", "_")),
        **kohya("lora_unet_down_blocks_9_to_q"),
        **kohya("lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
        "lora_unet_x.alpha": torch.tensor(1.0),
    }
    adapter, report = load_adapter(write(tensors, tmp_path / "a.safetensors"), components)
    assert report.matched == tuple(adapter.factors) == (f"unet.{QUERY}",)
    assert report.unmatched == (
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_unet_down_blocks_9_to_q",
    )
    assert report.lacking == {"text_encoder_3": 1}
    assert report.ignored == ("lora_unet_x.alpha",)
    assert report.summary() == (
        "1 of 3 modules matched; this model has no text_encoder_3 (modules for it: 1); not in"
        " this model: lora_te3_encoder_block_0_layer_0_SelfAttention_q,"
        " lora_unet_down_blocks_9_to_q; ignored: lora_unet_x.alpha"
    )


def test_a_clean_report_is_short() -> None:
    assert KeyReport(("a", "b"), (), ()).summary() == "2 of 2 modules matched"


@pytest.mark.parametrize(
    ("tensors", "metadata", "made"),
    [
        (pair("unet.x"), {"ss_base_model_version": "sd_v1"}, "Stable Diffusion 1.x"),
        (pair("unet.x"), {"ss_base_model_version": "mine"}, "mine"),
        (pair("unet.x"), {}, "an unknown model"),
        (pair("unet.mid_block.x"), {}, "a Stable Diffusion UNet"),
    ],
)
def test_an_adapter_without_a_module_of_the_model_is_refused(
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    made: str,
    components: Components,
    tmp_path: Path,
) -> None:
    path = write(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(path, components)
    message = str(caught.value)
    assert message.startswith(f"{path}: none of its 1 modules")
    assert f"it seems made for {made} and this is a model with cross-attention 32 wide" in message


def test_another_shape_is_refused(components: Components, tmp_path: Path) -> None:
    tensors = {**pair(f"unet.{QUERY}"), **pair(f"unet.{KEY}", d_in=32, d_out=16)}
    path = write(tensors, tmp_path / "a.safetensors")
    with pytest.raises(AdapterMismatchError) as caught:
        load_adapter(path, components)
    message = str(caught.value)
    assert f"unet.{KEY} changes weights of shape [16, 32]; expected [8, 32]" in message
    assert "both seem to be a model with cross-attention 32 wide, but of different" in message


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, 8, 3, 3), (8, 2, 1, 1)),  # a kernel on a linear layer
        ((2, 9), (8, 2)),
        ((2, 8), (9, 2)),
    ],
)
def test_shapes_are_not_bent_to_fit(
    down: tuple[int, ...], up: tuple[int, ...], components: Components, tmp_path: Path
) -> None:
    tensors = {
        f"unet.{QUERY}.lora_A.weight": torch.ones(down),
        f"unet.{QUERY}.lora_B.weight": torch.ones(up),
    }
    with pytest.raises(AdapterMismatchError, match="expected \\[8, 8\\]"):
        load_adapter(write(tensors, tmp_path / "a.safetensors"), components)


def test_two_names_of_one_module_are_refused(components: Components, tmp_path: Path) -> None:
    tensors = {**pair(f"unet.{QUERY}"), **kohya("lora_unet_" + QUERY.replace(".", "_"))}
    path = write(tensors, tmp_path / "a.safetensors")
    assert read_adapter(path).layout == "mixed"
    with pytest.raises(AdapterFormatError, match=f"are both unet.{QUERY}"):
        load_adapter(path, components)


def test_names_without_a_component_are_found_where_they_are(
    components: Components, truth: Truth, tmp_path: Path
) -> None:
    raws = truth["text_encoder"]
    tensors = {
        f"text_model.{path}.lora_{side}.weight": factor
        for path, raw in raws.items()
        for side, factor in (("A", raw.down), ("B", raw.up))
    }
    adapter, _ = load_adapter(write(tensors, tmp_path / "a.safetensors"), components)
    assert set(adapter.factors) == {f"text_encoder.{path}" for path in raws}


def test_names_that_could_be_two_modules_are_refused(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleDict({"b_c": nn.Linear(8, 8)})
            self.a_b = nn.ModuleDict({"c": nn.Linear(8, 8)})

    path = write(kohya("lora_unet_a_b_c"), tmp_path / "a.safetensors")
    with pytest.raises(AdapterMismatchError, match=r"could be unet\.a\.b_c or unet\.a_b\.c"):
        load_adapter(path, {"unet": Nested()})

    encoder = nn.ModuleDict({"mlp": nn.Linear(8, 8)})
    path = write(pair("base_model.model.mlp"), tmp_path / "b.safetensors")
    with pytest.raises(AdapterMismatchError, match=r"text_encoder\.mlp or text_encoder_2\.mlp"):
        load_adapter(path, {"text_encoder": encoder, "text_encoder_2": encoder})


def test_components_of_any_name_work(tmp_path: Path) -> None:
    parts = {"painter": nn.ModuleDict({"mlp": nn.Linear(8, 8)}), "unet": nn.Linear(1, 1)}
    adapter, _ = load_adapter(write(pair("painter.mlp"), tmp_path / "a.safetensors"), parts)
    assert tuple(adapter.factors) == ("painter.mlp",)
    # kohya calls every denoiser so
    parts = {"transformer": nn.ModuleDict({"mlp": nn.Linear(8, 8)})}
    adapter, _ = load_adapter(write(kohya("lora_unet_mlp"), tmp_path / "b.safetensors"), parts)
    assert tuple(adapter.factors) == ("transformer.mlp",)


def test_the_level_of_the_text_model_comes_and_goes(truth: Truth, tmp_path: Path) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleDict({"mlp": nn.Linear(8, 8)})

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_model = Inner()

    files = [
        write(kohya("lora_te_text_model_encoder_mlp"), tmp_path / "a.safetensors"),
        write(kohya("lora_te1_encoder_mlp"), tmp_path / "b.safetensors"),
        write(pair("text_encoder.text_model.encoder.mlp"), tmp_path / "c.safetensors"),
        write(pair("text_encoder.encoder.mlp"), tmp_path / "d.safetensors"),
    ]
    for model, site in ((Inner(), "encoder.mlp"), (Outer(), "text_model.encoder.mlp")):
        for path in files:
            adapter, _ = load_adapter(path, {"text_encoder": model})
            assert tuple(adapter.factors) == (f"text_encoder.{site}",)


def test_grouped_convolutions_are_no_sites() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 4, (3, 1)), nn.Linear(4, 5))
    shapes = {path: (m.kind, m.shape) for path, m in module_shapes(model).items()}
    assert shapes == {"1": ("conv", (4, 8, 3, 1)), "2": ("linear", (5, 4))}


def test_the_caller_may_name_the_adapter(
    components: Components, truth: Truth, tmp_path: Path
) -> None:
    path = layouts.kohya(truth, tmp_path / "a.b.safetensors")
    modules = {part: module_shapes(model) for part, model in components.items()}
    assert resolve(read_adapter(path), modules)[0].name == "a.b"
    assert resolve(read_adapter(path), modules, name="mochi")[0].name == "mochi"
