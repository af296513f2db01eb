"""Any name that a file may hold is understood or not, never a crash, and in linear time."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.adapters import keys
from compose.adapters.originals import original_names, original_of
from compose.adapters.tables import Tables, module_shapes
from tests.adapters.models import FAMILIES, parts

PIECES = """lora unet te3 _ . double_blocks single_blocks processor qkv_lora1 input_blocks 0 ²
joint_blocks diffusion_model clip_l t5 transformer text_encoders img_attn lora_A weight down up
lycoris 999999999999999999999999999999"""
NAMES = st.lists(st.sampled_from(PIECES.split()) | st.text(max_size=5), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(
    name=NAMES, ending=st.sampled_from(["", ".lora_A.weight", ".lora_up.weight", ".down.weight"])
)
def test_any_name_is_understood_or_not_and_never_a_crash(name: str, ending: str) -> None:
    key = keys.parse(name + ending)
    keys.unsupported([name + ending])
    keys.foreign([name + ending])
    if key is None or key.layout is None:
        return
    where = keys.address(key.stem, key.layout)
    original_of(keys.inside(where))
    for family in FAMILIES:
        tables = tables_of(family)
        assert isinstance(tables.find(where), list)
        assert tables.lacks(where) not in tables.modules


@functools.cache
def tables_of(family: str) -> Tables:
    return Tables({part: module_shapes(model) for part, model in parts(family).items()})


@pytest.mark.parametrize(
    "name",
    [
        "double_blocks." * 100_000 + "x.down.weight",
        "a." * 500_000 + "lora_A.weight",
        "double_blocks." + "1" * 1_000_000 + ".qkv_lora1.down.weight",
        "clip_l.transformer." * 60_000 + "lora_A.weight",
        "lora_" * 200_000 + ".lora_down.weight",
        "_lora" * 200_000 + ".down.weight",
        "attn2.to_k" * 100_000 + ".lora_A.weight",
    ],
)
def test_long_names_take_linear_time(name: str) -> None:
    """A million characters, a thousand times more than a header may hold; else this never ends."""
    key = keys.parse(name)
    if key is not None and key.layout is not None:
        where = keys.address(key.stem, key.layout)
        original_of(keys.inside(where))
        assert tables_of("flux").find(where) == []


def test_odd_models_have_no_original_names() -> None:
    makers: tuple[Callable[[], dict[str, int]], ...] = (
        dict,
        lambda: {"": 3},
        lambda: {"transformer_blocks.x.attn.to_q": 4, "encoder.layers": 1},
        lambda: {"down_blocks.a": 1, "up_blocks.": 2, "down_blocks.²": 3},
    )
    assert [original_names(make()) for make in makers] == [{}] * len(makers)
