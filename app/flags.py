"""The little languages of single flags: ``mochi:0.8``, ``128x128``, ``mochi=0,0,0.5,1``."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from compose.errors import RequestError, nearest
from compose.prompt import read_number
from compose.regions import Box, Mask
from compose.request import MAX_SEED, AdapterUse
from compose.types import Size

MAX_COUNT = 10_000
"""Most pictures of one command."""
MAX_SIDE = 4096
"""Widest and highest picture, in pixels."""
_FRESH_SEEDS = 2**32


def read_lora(text: str) -> AdapterUse:
    """``NAME|FILE[:WEIGHT[:TE_WEIGHT]]``; names and files may hold colons themselves.

    Of several readings the one that names an existing file counts, else the one with most weights.

    Raises:
        RequestError: a weight that is none, or no name.
    """
    parts = text.split(":")
    readings: list[tuple[str, list[float]]] = []
    for count in range(min(2, len(parts) - 1) + 1):
        numbers = [read_number(part) for part in parts[len(parts) - count :]]
        weights = [number for number in numbers if number is not None]
        name = ":".join(parts[: len(parts) - count])
        if len(weights) == count and name.strip():
            readings.append((name, weights))
    there = next((r for r in readings if Path(r[0]).exists()), None)
    if there is not None:
        return _use(*there)
    name, weights = readings[-1] if readings else ("", [])
    if not name or (len(parts) > 1 and not weights and not _like_a_path(parts[-1])):
        raise RequestError(
            f"--lora {text!r} could not be read; expected NAME, NAME:WEIGHT or"
            " NAME:WEIGHT:TE_WEIGHT with numbers as weights, such as mochi:0.8"
        )
    if len(weights) == 2 and read_number(name.rpartition(":")[2]) is not None:
        raise RequestError(f"--lora {text!r} has more than two weights; expected one or two")
    return _use(name, weights)


def _use(name: str, weights: Sequence[float]) -> AdapterUse:
    """An adapter with none, one or two weights."""
    return AdapterUse(
        name,
        weights[0] if weights else 1.0,
        weights[1] if len(weights) > 1 else None,
    )


def _like_a_path(text: str) -> bool:
    return any(c in text for c in "/\\") or text.endswith(".safetensors")


def read_size(text: str | None) -> Size | None:
    """``WxH`` in pixels.

    Raises:
        RequestError: anything else, or a side that no machine could do.
    """
    if text is None:
        return None
    width, cross, height = text.lower().partition("x")
    if not (
        cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()
    ):
        raise RequestError(f"--size {text!r} was given; expected WxH in pixels, such as 128x128")
    if len(width) > 6 or len(height) > 6 or max(int(width), int(height)) > MAX_SIDE:
        raise RequestError(
            f"--size {text} is too large; expected sides of at most {MAX_SIDE} pixels"
        )
    return Size(int(width), int(height))


def read_fields(pairs: Iterable[str]) -> dict[str, str]:
    """``FIELD=VALUE`` pairs.

    Raises:
        RequestError: one without "=", or a field given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise RequestError(f"--set {pair!r} was given; expected FIELD=VALUE, such as every=3")
        if name in found:
            raise RequestError(f"--set {name} was given twice; expected one value for it")
        found[name] = value
    return found


def read_seeds(seed: int | None, count: int) -> tuple[int, ...]:
    """`count` seeds from `seed` on, or from a fresh one.

    Raises:
        RequestError: too few or too many pictures, or seeds out of range.
    """
    if not 1 <= count <= MAX_COUNT:
        raise RequestError(f"--count {count} is out of range; expected 1 to {MAX_COUNT}")
    if seed is not None and not 0 <= seed <= MAX_SEED - count + 1:
        raise RequestError(f"--seed {seed} is out of range; expected 0 to {MAX_SEED - count + 1}")
    first = secrets.randbelow(_FRESH_SEEDS) if seed is None else seed
    return tuple(range(first, first + count))


def read_duration(text: str | None) -> float | None:
    """``90s``, ``10m``, ``1.5h``, or a number of seconds.

    Raises:
        RequestError: anything else, or nothing at all.
    """
    if text is None:
        return None
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:].lower())
    number = read_number(text if unit is None else text[:-1])
    if number is None or not 0 < number < float("inf"):
        raise RequestError(
            f"--budget {text!r} is no length of time; expected one above 0 such as 90s, 10m or 1.5h"
        )
    return number * (unit or 1.0)


def read_region(text: str, names: Sequence[str]) -> tuple[str, Box]:
    """``NAME=x0,y0,x1,y1``, fractions of width and height from the top left.

    Args:
        text: the flag's value.
        names: of the adapters of the request.

    Returns:
        An adapter and where it belongs.

    Raises:
        RequestError: no such box, or none of the adapters.
    """
    name, box = _of("--region", text, names)
    numbers = [read_number(part) for part in box.split(",")]
    edges = [number for number in numbers if number is not None]
    if len(numbers) != 4 or len(edges) != 4:
        raise RequestError(
            f"--region {text} is no box; expected NAME=x0,y0,x1,y1 as fractions of width and"
            " height, such as mochi=0,0,0.5,1"
        )
    try:
        return name, Box(*edges)
    except RequestError as error:
        raise RequestError(f"--region {text}: {error}") from None


def read_mask(text: str, names: Sequence[str]) -> tuple[str, Mask]:
    """``NAME=FILE.png``; as `read_region`."""
    name, file = _of("--mask", text, names)
    try:
        return name, Mask.read(file)
    except RequestError as error:
        raise RequestError(f"--mask {text}: {error}") from None


def read_bind(text: str, names: Sequence[str]) -> tuple[str, str]:
    """``NAME=WORDS``; as `read_region`.

    Returns:
        An adapter and the words of the prompt that call it.

    Raises:
        RequestError: no words, or none of the adapters.
    """
    name, words = _of("--bind", text, names)
    if not words.split():
        raise RequestError(
            f"--bind {text} names no words; expected NAME=WORDS as they stand in the prompt, such"
            " as mochi='teal cat'"
        )
    return name, words


def _of(flag: str, text: str, names: Sequence[str]) -> tuple[str, str]:
    """An adapter of the request, and what a flag says of it; names may hold "=" themselves."""
    for name in names:
        if text.startswith(f"{name}="):
            return name, text.removeprefix(f"{name}=")
    given = text.partition("=")[0]
    raise RequestError(
        f"{flag} {text} is for {given!r}, which is no adapter of this request;"
        f" {nearest(given, names)}"
    )
