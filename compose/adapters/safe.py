"""Safetensors files, read without trust: the header is checked whole before a tensor is made.

The format is 8 bytes with the header's length (little endian), the header in JSON, then the bytes
of the tensors end to end. Nothing else is read: other formats can run code while they load.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compose.errors import AdapterFormatError

MAX_FILE = 8 * 2**30
"""Largest file that is read, in bytes. The largest adapters in use lie well below it."""
MAX_HEADER = 25 * 2**20
"""Largest header that is parsed, in bytes."""
MAX_NAME = 1000
"""Longest name of a tensor, in characters."""
MAX_AXES = 8
"""Most axes of a tensor."""

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_BYTES = {
    dtype: size
    for size, dtypes in (
        (8, ("F64", "I64", "U64")),
        (4, ("F32", "I32", "U32")),
        (2, ("F16", "BF16", "I16", "U16")),
        (1, ("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")),
    )
    for dtype in dtypes
}
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")

_EXPECTED = "a .safetensors file"
_AGAIN = "download the file again"
_NO_PICKLE = "such files can run code when opened, so ask the author for a .safetensors file"

# First bytes of what people have under the wrong name, with what to do about it.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's pickle files are", _NO_PICKLE),
    *((bytes([0x80, protocol]), "a Python pickle", _NO_PICKLE) for protocol in range(2, 6)),
    (b"version https://git-lfs", "a git-LFS pointer, a note for the file", "run git lfs pull"),
    (b"GGUF", "a GGUF file", "use the adapter's .safetensors file"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x89PNG", "a PNG picture", "give the adapter, not its preview"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the adapter, not its preview"),
)


@dataclass(frozen=True)
class TensorInfo:
    """What the header says about one tensor: `dtype` as the format spells it, `shape`."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: name to dtype and shape, in the order of their bytes.
        metadata: free texts.
        start: where the bytes of the tensors begin.
        size: of the file, in bytes.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    start: int
    size: int


def shown(text: object, limit: int = 120) -> str:
    """Text from outside, fit for a message: one line of limited length, no control characters."""
    raw = str(text)
    line = "".join(c if c.isprintable() else "?" for c in raw[:limit])
    return line + "..." if len(raw) > limit else line


def refusal(path: Path, given: str, expected: str, advice: str) -> AdapterFormatError:
    """The error for a file that cannot be used."""
    return AdapterFormatError(f"{shown(path, 400)}: {given}; expected {expected}; {advice}")


def read_header(path: Path, *, largest: int = MAX_FILE) -> Header:
    """Read and check the header of a safetensors file.

    Args:
        path: the file.
        largest: most bytes that the file may have.

    Returns:
        The header. Names, dtypes, shapes and places of all tensors fit together and fit the file.

    Raises:
        AdapterFormatError: no file, another format, cut short, or a header that contradicts itself.
    """
    _check_outside(path)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            text = _header_text(path, stream, size, largest)
    except OSError as error:
        given = f"cannot be read ({error.strerror})"
        raise refusal(path, given, _EXPECTED, "check its permissions") from None
    entries = _parse(path, text)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "its __metadata__ is not a table of texts")
    start = 8 + len(text)
    return Header(_tensors(path, entries, size - start), metadata, start, size)


def _check_outside(path: Path) -> None:
    """Refuse what can be refused without opening the file."""
    if not os.path.exists(path):
        raise refusal(path, "does not exist", _EXPECTED, "check the path")
    if os.path.isdir(path):
        given = "is a folder without adapter_model.safetensors"
        raise refusal(path, given, _EXPECTED, "give the file inside it")
    if not os.path.isfile(path):
        raise refusal(path, "is not a regular file", _EXPECTED, "check the path")
    if path.suffix.lower() in _PICKLES:
        raise refusal(path, f"is named {path.suffix}, a pickle file", _EXPECTED, _NO_PICKLE)


def _header_text(path: Path, stream: BinaryIO, size: int, largest: int) -> bytes:
    """The bytes of the header, once its length is known to be sound."""
    if size > largest:
        limit = f"at most {largest // 2**30} GiB"
        raise refusal(path, f"has {size} bytes", limit, "give an adapter, not a whole model")
    head = stream.read(512)
    if not head:
        raise refusal(path, "is empty", _EXPECTED, _AGAIN)
    if head[8:9] != b"{":
        given, advice = _sniff(head)
        raise refusal(path, f"is {given}", _EXPECTED, advice)
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise refusal(path, f"claims a header of {length} bytes", f"at most {MAX_HEADER}", _AGAIN)
    if 8 + length > size:
        given = f"is cut short: it has {size} bytes, its header alone needs {8 + length}"
        raise refusal(path, given, "the whole file", _AGAIN)
    stream.seek(8)
    return stream.read(length)


def _sniff(head: bytes) -> tuple[str, str]:
    """What a file that is no safetensors file is, and what to do about it."""
    for magic, given, advice in _MAGIC:
        if head.startswith(magic):
            return given, advice
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not a download", "log in where the site asks for it and download again"
    if start.startswith((b"{", b"[")):
        return "a JSON text", "give the weights, not their settings"
    return "no safetensors file: its first bytes are not a header", "check that it is an adapter"


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """The header as a table."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name twice")
        return table

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise _broken(path, "its header is no valid JSON") from None
    if not isinstance(entries, dict):
        raise _broken(path, "its header is no table")
    return entries


def _tensors(path: Path, entries: Mapping[str, Any], payload: int) -> dict[str, TensorInfo]:
    """Check every entry, and that the tensors fill `payload` bytes without gaps or overlaps."""
    found: list[tuple[int, int, str, TensorInfo]] = []
    for name, entry in entries.items():
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise _broken(path, f"{shown(name, 60)!r} cannot be the name of a tensor")
        begin, end, info = _entry(path, name, entry)
        if end > payload:
            given = f"is cut short: tensor {shown(name)} ends at byte {end} of {payload}"
            raise refusal(path, given, "the whole file", _AGAIN)
        found.append((begin, end, name, info))
    found.sort(key=lambda item: item[:2])
    at = 0
    for begin, end, name, _ in found:
        if begin != at:
            raise _broken(path, f"tensor {shown(name)} begins at byte {begin}, not {at}")
        at = end
    if at != payload:
        raise _broken(path, f"{payload - at} bytes belong to no tensor")
    return {name: info for _, _, name, info in found}


def _entry(path: Path, name: str, entry: object) -> tuple[int, int, TensorInfo]:
    """First byte, end and kind of one tensor."""
    if not isinstance(entry, dict):
        raise _broken(path, f"the entry of {shown(name)} is no table")
    dtype, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise _broken(path, f"tensor {shown(name)} has the unknown dtype {shown(dtype, 40)}")
    if not _is_sizes(shape) or len(shape) > MAX_AXES:
        raise _broken(path, f"tensor {shown(name)} has the impossible shape {shown(shape, 60)}")
    if not _is_sizes(place) or len(place) != 2:
        raise _broken(path, f"tensor {shown(name)} lies at the impossible place {shown(place, 60)}")
    begin, end = place
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        given = f"tensor {shown(name)} of dtype {dtype} and shape {shown(shape, 60)}"
        raise _broken(path, f"{given} has {end - begin} bytes")
    return begin, end, TensorInfo(dtype, tuple(shape))


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """Whether a value is a list of whole numbers from 0 to 2^40."""
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**40 for v in value)


def _broken(path: Path, what: str) -> AdapterFormatError:
    return refusal(path, f"is damaged: {what}", "a sound safetensors file", _AGAIN)


def load_tensors(path: Path, header: Header, names: Iterable[str]) -> dict[str, Tensor]:
    """Load tensors as float32 copies that no longer depend on the file.

    Args:
        path: the file that `header` was read from.
        header: its header.
        names: which tensors.

    Raises:
        AdapterFormatError: a tensor that holds NaN or infinity, or cannot be read, or is not of
            floating point; a single number may also be a whole one.
    """
    loaded: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in names:
                _check_float(path, name, header.tensors[name])
                loaded[name] = file.get_tensor(name).to(torch.float32, copy=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _broken(path, f"the safetensors library says: {shown(error, 200)}") from None
    for name, tensor in loaded.items():
        check_finite(path, name, tensor)
    return loaded


def _check_float(path: Path, name: str, info: TensorInfo) -> None:
    if info.dtype not in FLOATS and (math.prod(info.shape) > 1 or info.dtype == "BOOL"):
        given = f"tensor {shown(name)} has dtype {info.dtype}"
        raise refusal(path, given, "floating point", "use a file that is not quantised")


def check_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity: one such value spoils the whole picture.

    Raises:
        AdapterFormatError: the tensor holds one.
    """
    if not bool(tensor.isfinite().all()):
        given = f"tensor {shown(name)} holds NaN or infinity"
        advice = "its training diverged, so use another file"
        raise refusal(path, given, "finite numbers in float32", advice)
