"""What made a picture: versions of programs and the identity of a model's weights; and its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

DISTRIBUTION = "lora-compose"
_MADE_WITH = (DISTRIBUTION, "torch", "diffusers", "transformers")
_WHOLE = 256 * 2**20  # bytes; larger files are sampled
_SAMPLES, _SAMPLE = 64, 2**20  # samples of a large file, and bytes of each


def installed(name: str) -> str | None:
    """Version of an installed distribution; None when it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(also: Iterable[str] = ()) -> dict[str, str]:
    """Distribution to version, of everything that can change a pixel.

    Args:
        also: distributions that count for one model only, such as "gguf".
    """
    return {name: found for name in (*_MADE_WITH, *also) if (found := installed(name)) is not None}


def model_fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """Identity of a model, from its weights, settings and words.

    Files up to 256 MiB count with every byte, larger ones with their size and 64 MiB spread evenly
    over them, so that a model of several gigabytes takes a moment and still shows any training.

    Args:
        files: those that decide what it draws, each with a name inside the model, as
            `compose.models.source.Source.files` gives them.

    Returns:
        64 hex digits. The place of the files plays no part.
    """
    whole = hashlib.sha256()
    for name, file in files:
        whole.update(f"{name}\0".encode())
        whole.update(_digest(file))
    return whole.hexdigest()


def _digest(file: Path) -> bytes:
    size = file.stat().st_size
    if size <= _WHOLE:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for index in range(_SAMPLES):
            stream.seek((size - _SAMPLE) * index // (_SAMPLES - 1))
            found.update(stream.read(_SAMPLE))
    return found.digest()


def pixels_hash(image: Image.Image) -> str:
    """SHA-256 of the raw RGB bytes of a picture, row by row."""
    return hashlib.sha256(image.tobytes()).hexdigest()
