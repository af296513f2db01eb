"""What browsers may reach: adapters by name, pictures of one folder, sound files."""

from __future__ import annotations

from pathlib import Path

from compose.adapters.library import AdapterEntry, AdapterLibrary
from compose.errors import RequestError

MAX_UPLOAD = 32 * 2**20
"""Largest file that is taken, in bytes."""
ADAPTERS = "adapters"
"""Folder inside the output folder for adapters that were trained here."""
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
}


class NamedAdapters(AdapterLibrary):
    """A library that gives out adapters by name only: a path, which a prompt or a picture's recipe
    may hold, leads nowhere.
    """

    def find(self, name_or_path: str | Path, *, paths: bool = False) -> AdapterEntry:
        """Find an adapter by name."""
        del paths
        return super().find(name_or_path, paths=False)


def kind_of(head: bytes) -> str | None:
    """What a file is by its first 16 bytes or more: "png", "jpeg", "webp", "safetensors", or None.

    A safetensors file begins with the length of its header, 8 bytes, and the header with a brace.
    """
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100 * 2**20:
        return "safetensors"
    return None


def inside(path: str | Path, folder: Path) -> Path:
    """A file of a folder.

    Raises:
        RequestError: it lies elsewhere, or is not there.
    """
    found = Path(path).resolve()
    if not found.is_relative_to(folder.resolve()) or not found.is_file():
        raise RequestError(
            f"{Path(path).name} is no file of the app's folder; expected a picture of the gallery"
        )
    return found
