"""Kinds that are no plain LoRA are named; patterns of paths mean what they mean to PEFT."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.adapters import keys
from compose.adapters.patterns import compile_pattern
from compose.adapters.reading import read_adapter
from compose.errors import AdapterFormatError
from tests.adapters.layouts import write

PLAIN = {
    "lora_unet_a.lora_down.weight": torch.ones(2, 3),
    "lora_unet_a.lora_up.weight": torch.ones(4, 2),
}
OTHERS = {
    "lora_unet_b.hada_w1_a": "LoHa",
    "lora_unet_b.hada_t2": "LoHa",
    "lora_unet_b.lokr_w2_b": "LoKr",
    "lora_unet_a.dora_scale": "DoRA",
    "unet.a.lora_magnitude_vector": "DoRA",
    "base_model.model.a.lora_magnitude_vector.default.weight": "DoRA",
    "lora_unet_b.lora_mid.weight": "Tucker",
    "lora_unet_b.oft_blocks": "OFT",
    "oft_unet_b.oft_diag": "OFT",
    "base_model.model.a.boft_R": "OFT",
    "lora_unet_b.on_input": "IA3",
    "base_model.model.a.ia3_l": "IA3",
    "lora_unet_b.a1.weight": "GLoRA",
    "lora_unet_b.w_norm": "norm",
    "lora_unet_b.diff": "full weight differences",
    "lora_unet_b.diff_b": "full weight differences",
    "base_model.model.a.lora_embedding_A": "embedding",
    "lora_controlnet": "Control-LoRA",
    "unet.a.lora_B.bias": "LoRA with biases",
    "double_blocks.0.img_mod.lin.lora_B.bias": "FLUX control LoRAs",
    "base_model.model.a.lora_B.default.bias": "LoRA with biases",
    "double_blocks.0.img_attn.norm.query_norm.scale": "FLUX control LoRA",
    "transformer.single_transformer_blocks.0.attn.norm_k.weight": "FLUX control LoRA",
    "lora_unet_double_blocks_0_img_attn_norm_query_norm.diff": "full weight differences",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_refused_by_name(name: str, tmp_path: Path) -> None:
    path = write({**PLAIN, name: torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFormatError, match=OTHERS[name]) as caught:
        read_adapter(path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.diffusion_model.out.0.weight", "a whole model"),
        ("emb_params", "textual inversion"),
        ("<mochi>", "textual inversion"),
        ("image_proj.proj.weight", "IP-Adapter"),
        ("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", "IP-Adapter"),
        ("down_blocks.0.resnets.0.conv1.weight", "a denoiser"),
        ("text_model.embeddings.position_embedding.weight", "a text encoder"),
        ("something", "nothing that is known"),
    ],
)
def test_other_files_are_called_what_they_are(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match=kind):
        read_adapter(write({name: torch.ones(2, 2)}, tmp_path / "a.safetensors"))


def test_names_without_meaning_are_listed(tmp_path: Path) -> None:
    extra = ("lora_unet_b.alpha", "unet.a.steps", "bundle_emb.mochi.string_to_param.*")
    tensors = {**PLAIN, **{name: torch.ones(1) for name in extra}}
    file = read_adapter(write(tensors, tmp_path / "a.safetensors"))
    assert set(file.ignored) == set(extra)
    assert all(name in file.warnings[0] for name in extra)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lora_unet_a.lora_up.weight": None}, "second factor of lora_unet_a is missing"),
        ({"lora_unet_a.lora_down.weight": None}, "first factor of lora_unet_a is missing"),
        ({"lora_unet_a.lora_up.weight": torch.ones(4, 3)}, r"shapes \[2, 3\] and \[4, 3\]"),
        ({"lora_unet_a.lora_up.weight": torch.ones(4)}, r"shapes \[2, 3\] and \[4\]"),
        ({"lora_unet_a.lora_down.weight": torch.ones(2, 0)}, r"shapes \[2, 0\]"),
        ({"lora_unet_a.lora_down.weight": torch.ones(2, 3, 3)}, r"shapes \[2, 3, 3\]"),
        ({"lora_unet_a.lora_up.weight": torch.ones(4, 2, 3, 3)}, "3x3 kernel in the second"),
        ({"lora_unet_a.alpha": torch.ones(2)}, r"alpha has shape \[2\]"),
        ({"lora_unet_a.lora_down.weight": torch.ones(2, 3).int()}, "dtype I32"),
    ],
)
def test_factors_that_do_not_pair_up_are_refused(
    change: dict[str, torch.Tensor | None], says: str, tmp_path: Path
) -> None:
    tensors = {name: t for name, t in {**PLAIN, **change}.items() if t is not None}
    with pytest.raises(AdapterFormatError, match=says):
        read_adapter(write(tensors, tmp_path / "a.safetensors"))


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    tensors = {
        f"base_model.model.a.lora_{side}.{name}.weight": torch.ones(2, 2)
        for side in "AB"
        for name in ("default", "other")
    }
    with pytest.raises(AdapterFormatError, match=r"several adapters \(default, other\)"):
        read_adapter(write(tensors, tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("stem", "layout", "components", "paths"),
    [
        ("lora_unet_mid_block_a", "kohya", ("unet", "transformer"), ("mid_block_a",)),
        ("lora_te2_text_model_a", "kohya", ("text_encoder_2",), ("text_model_a",)),
        ("lora_te.a.b", "kohya-dotted", ("text_encoder",), ("a.b",)),
        ("unet.a.to_q", "diffusers", (), ("unet.a.to_q",)),
        ("base_model.model.a.to_q", "peft", (), ("a.to_q",)),
        (
            "unet.a.processor.to_out_lora",
            "diffusers-old",
            (),
            ("unet.a.to_out.0", "unet.a.out_proj"),
        ),
        ("unet.a.ff", "diffusers-old", (), ("unet.a.ff",)),
        ("lycoris_blocks_0_a", "kohya", ("unet", "transformer"), ("blocks_0_a",)),
        ("diffusion_model.a.b", "diffusers", ("unet", "transformer"), ("a.b",)),
        ("text_encoders.clip_g.transformer.a.b", "kohya-dotted", ("text_encoder_2",), ("a.b",)),
        ("t5.encoder.a", "kohya-dotted", ("text_encoder_3",), ("encoder.a",)),
        ("clip_lamp.a", "diffusers", (), ("clip_lamp.a",)),
        (
            "diffusion_model.double_blocks.0.processor.qkv_lora1",
            "xlabs",
            ("unet", "transformer"),
            ("double_blocks.0.qkv_lora1",),
        ),
    ],
)
def test_stems_become_addresses(
    stem: str, layout: keys.Layout, components: tuple[str, ...], paths: tuple[str, ...]
) -> None:
    where = keys.address(stem, layout)
    assert where.components == components and where.paths == paths
    assert where.flat == (layout == "kohya")


ATOMS = st.sampled_from(["a", "b", "1", "_", ".", "\\.", "\\d", "\\w", "[ab]", "[0-9]"])
BRANCH = st.builds(
    lambda start, parts, end: start + "".join(a + t for a, t in parts) + end,
    st.sampled_from(["", "^"]),
    st.lists(st.tuples(ATOMS, st.sampled_from(["", "", "*", "+", "?"])), max_size=5),
    st.sampled_from(["", "$"]),
)


@settings(max_examples=500, deadline=None)
@given(
    pattern=st.lists(BRANCH, min_size=1, max_size=2).map("|".join),
    path=st.text("ab1_.", max_size=8),
)
def test_patterns_mean_what_they_mean_to_peft(pattern: str, path: str) -> None:
    expected = re.match(rf"(.*\.)?({pattern})$", path) is not None
    assert compile_pattern(pattern).matches(path) == expected


def test_patterns_cannot_hang() -> None:
    start = time.perf_counter()
    assert not compile_pattern("a*" * 200 + "b").matches("a" * 500)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("pattern", ["(a|b)", "a{2}", "(?=a)", "a**", "[^a]", "[b-a]", "x" * 501])
def test_other_expressions_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        compile_pattern(pattern)
