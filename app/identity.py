"""What made a picture: versions of programs and the identity of a model's weights."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def versions() -> dict[str, str]:
    """Distribution to version, of everything that can change a pixel."""
    return {name: found for name in _MADE_WITH if (found := installed(name)) is not None}


def model_fingerprint(folder: Path) -> str:
    """Identity of a model in diffusers layout, from its weights, settings and words.

    Files up to 256 MiB count with every byte, larger ones with their size and 64 MiB spread evenly
    over them, so that a model of several gigabytes takes a moment and still shows any training.

    Args:
        folder: the model.

    Returns:
        64 hex digits. The place of the folder plays no part, nor does what is no part of the model.
    """
    whole = hashlib.sha256()
    index = json.loads((folder / "model_index.json").read_text())
    components = sorted(name for name in index if (folder / name).is_dir())
    for part in (folder, *(folder / name for name in components)):
        for file in sorted(part.iterdir()):
            if file.suffix in (".json", ".txt", ".safetensors") and file.is_file():
                whole.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                whole.update(digest(file))
    return whole.hexdigest()


def digest(file: Path) -> bytes:
    """SHA-256 of a file; of one above 256 MiB, of its size and 64 MiB spread evenly over it."""
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
