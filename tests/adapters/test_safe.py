"""Broken, hostile and mistaken files are refused with help, before anything is built."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from compose.adapters import safe
from compose.adapters.reading import read_adapter
from compose.adapters.safe import read_header
from compose.errors import AdapterFormatError
from tests.adapters.layouts import write

TENSORS = {
    "lora_unet_a_to_q.lora_down.weight": torch.randn(2, 6),
    "lora_unet_a_to_q.lora_up.weight": torch.randn(5, 2),
    "lora_unet_a_to_q.alpha": torch.tensor(1.0),
    "lora_unet_a_conv.lora_down.weight": torch.randn(3, 4, 3, 3).half(),
    "lora_unet_a_conv.lora_up.weight": torch.randn(5, 3, 1, 1).half(),
}
WHOLE = save(TENSORS, metadata={"ss_output_name": "mochi", "modelspec.title": "Mochi"})
HEADER = 8 + int.from_bytes(WHOLE[:8], "little")


def with_header(header: Any, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FILES: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"\x08\0\0", "no safetensors file"),
    "zeros": (bytes(100), "no safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip archive.*run code"),
    "pickle": (b"\x80\x02}q\0." + bytes(60), "pickle.*run code"),
    "pickle 4": (b"\x80\x04\x95" + bytes(60), "pickle.*run code"),
    "git-LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>", "web page"),
    "json": (b'{"r": 8}', "JSON text"),
    "gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(20), "preview"),
    "no JSON": (with_header(b"{nothing"), "no valid JSON"),
    "not UTF-8": (with_header(b'{"\xff": 1}'), "no valid JSON"),
    "deep": (with_header(b'{"a":' + b"[" * 100_000), "no valid JSON"),
    "long number": (with_header(b'{"a":' + b"1" * 10_000 + b"}"), "no valid JSON"),
    "twice": (with_header(b'{"a":{},"a":{}}'), "no valid JSON"),
    "bad text": (with_header({"__metadata__": {"a": 1}}), "__metadata__"),
    "no table": (with_header({"a": 1}), "entry of a"),
    "no dtype": (with_header({"a": entry(dtype="F99")}, bytes(4)), "unknown dtype F99"),
    "list dtype": (with_header({"a": entry(dtype=[1])}, bytes(4)), "unknown dtype"),
    "negative": (with_header({"a": entry(shape=[-1, -1])}, bytes(4)), "impossible shape"),
    "float shape": (with_header({"a": entry(shape=[1.0])}, bytes(4)), "impossible shape"),
    "true shape": (with_header({"a": entry(shape=[True])}, bytes(4)), "impossible shape"),
    "many axes": (with_header({"a": entry(shape=[1] * 9)}, bytes(4)), "impossible shape"),
    "one offset": (with_header({"a": entry(offsets=[4])}, bytes(4)), "impossible place"),
    "backwards": (with_header({"a": entry(offsets=[4, 0])}, bytes(4)), "-4 bytes"),
    "overflow": (with_header({"a": entry(shape=[2**33, 2**31])}, bytes(4)), "shape"),
    "gap": (with_header({"a": entry(offsets=[4, 8])}, bytes(8)), "begins at byte 4"),
    "overlap": (with_header({"a": entry(), "b": entry()}, bytes(8)), "begins at byte 0"),
    "tail": (with_header({"a": entry()}, bytes(9)), "5 bytes belong to no tensor"),
    "long name": (with_header({"a" * 2000: entry()}, bytes(4)), "name of a tensor"),
    "wild name": (with_header({"a\x1b[31m": entry()}, bytes(4)), "name of a tensor"),
    "lone surrogate": (with_header({"a\ud800": entry()}, bytes(4)), "name of a tensor"),
    "cut header": (WHOLE[: HEADER - 9], "cut short"),
    "cut tensors": (WHOLE[:-1], "cut short"),
    "no tensors": (with_header({}), "holds no tensors"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_sound_file_is_refused(kind: str, tmp_path: Path) -> None:
    content, says = FILES[kind]
    path = tmp_path / "mochi.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterFormatError, match=says) as caught:
        read_adapter(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "; expected " in message
    assert message.isprintable() and len(message) < 900


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin", ".PTH"])
def test_pickle_names_are_refused_whatever_they_hold(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"mochi{ending}"
    path.write_bytes(WHOLE)
    with pytest.raises(AdapterFormatError, match="pickle"):
        read_adapter(path)


def test_a_header_as_long_as_a_pickle_mark_is_no_pickle(tmp_path: Path) -> None:
    """0x280 is 640 in little endian, and also how a pickle begins."""
    for length in (0x280, 0x380, 0x480):
        text = json.dumps({"__metadata__": {}, "unet.a.alpha": entry()}).encode().ljust(length)
        path = tmp_path / f"{length}.safetensors"
        path.write_bytes(with_header(text, bytes(4)))
        assert read_header(path).start == 8 + length


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match="does not exist"):
        read_adapter(tmp_path / "mochi.safetensors")
    with pytest.raises(AdapterFormatError, match="is a folder"):
        read_adapter(tmp_path)
    with pytest.raises(AdapterFormatError, match="not a regular file"):
        read_adapter("/dev/null")
    with pytest.raises(AdapterFormatError, match="does not exist"):
        read_adapter("x" * 5000)
    with pytest.raises(AdapterFormatError, match="does not exist"):
        read_adapter("a\0b")


def test_sizes_are_limited_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mochi.safetensors"
    path.write_bytes(struct.pack("<Q", safe.MAX_HEADER + 1) + b"{" + bytes(600))
    with pytest.raises(AdapterFormatError, match="claims a header of 26214401 bytes"):
        read_adapter(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{" + bytes(600))
    with pytest.raises(AdapterFormatError, match="claims a header"):
        read_adapter(path)
    with path.open("wb") as stream:
        stream.truncate(safe.MAX_FILE + 1)  # a hole, no bytes on the disk
    with pytest.raises(AdapterFormatError, match="at most 8 GiB"):
        read_adapter(path)


def test_lies_about_sizes_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "mochi.safetensors"
    path.write_bytes(with_header({"a": entry(shape=[2**30], offsets=[0, 2**32])}, bytes(64)))
    tracemalloc.start()
    try:
        with pytest.raises(AdapterFormatError, match="cut short"):
            read_adapter(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_numbers_that_are_none_are_refused(name: str, value: float, tmp_path: Path) -> None:
    tensors = {key: tensor.clone() for key, tensor in TENSORS.items()}
    tensors[f"lora_unet_a_to_q.{name}"].view(-1)[-1] = value
    with pytest.raises(AdapterFormatError, match=f"lora_unet_a_to_q.{name} holds NaN or infinity"):
        read_adapter(write(tensors, tmp_path / "mochi.safetensors"))


def test_a_scale_that_overflows_is_refused(tmp_path: Path) -> None:
    tensors = {**TENSORS, "lora_unet_a_to_q.alpha": torch.tensor(3e38)}
    tensors["lora_unet_a_to_q.lora_up.weight"] = torch.full((5, 2), 1e3)
    with pytest.raises(AdapterFormatError, match="NaN or infinity"):
        read_adapter(write(tensors, tmp_path / "mochi.safetensors"))


def read_or_refuse(path: Path, content: bytes) -> None:
    """Reading must end in factors that are sound, or in the one error."""
    path.write_bytes(content)
    try:
        file = read_adapter(path)
    except AdapterFormatError as error:
        assert str(error).isprintable()
        return
    for raw in file.modules.values():
        assert raw.down.shape[0] == raw.up.shape[1] == raw.pair.rank
        assert raw.down.isfinite().all() and raw.up.isfinite().all()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mochi.safetensors"


@settings(max_examples=150, deadline=None)
@given(size=st.integers(0, len(WHOLE)))
def test_a_file_cut_anywhere_is_refused(scratch: Path, size: int) -> None:
    scratch.write_bytes(WHOLE[:size])
    if size < len(WHOLE):
        with pytest.raises(AdapterFormatError):
            read_adapter(scratch)
    else:
        assert len(read_adapter(scratch).modules) == 2


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_header_is_refused_or_read_right(
    scratch: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    read_or_refuse(scratch, bytes(content))


ENTRIES = json.loads(WHOLE[8:HEADER])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([*ENTRIES, "lora_unet_a_to_q.lora_mid.weight", "x"]),
    key=st.sampled_from(["dtype", "shape", "data_offsets", ""]),
    value=JSON,
)
def test_a_twisted_header_is_refused_or_read_right(
    scratch: Path, name: str, key: str, value: Any
) -> None:
    entries = json.loads(json.dumps(ENTRIES))
    if key and name in entries:
        entries[name][key] = value
    else:
        entries[name] = value
    read_or_refuse(scratch, with_header(entries, WHOLE[HEADER:]))
