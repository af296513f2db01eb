"""Hashes by which sites and other tools recognise an adapter file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from compose.adapters.outline import weights_path
from compose.adapters.safe import read_header

_CHUNK = 2**20


@dataclass(frozen=True)
class Hashes:
    """Hashes of one file, in lower-case hex.

    Attributes:
        sha256: of the whole file.
        payload: SHA-256 of the tensors' bytes alone; stays the same when only the header changes.
    """

    sha256: str
    payload: str

    @property
    def autov2(self) -> str:
        """Civitai's AutoV2: 10 digits."""
        return self.sha256[:10]

    @property
    def autov3(self) -> str:
        """Civitai's AutoV3, also written by AUTOMATIC1111's web UI: 12 digits."""
        return self.payload[:12]


def file_hashes(path: str | Path) -> Hashes:
    """Hash an adapter file. The file's own claims (`sshs_model_hash`) are often wrong and not used.

    Args:
        path: a safetensors file, or a PEFT folder.

    Raises:
        AdapterFormatError: not a sound safetensors file.
    """
    path = weights_path(path)
    start = read_header(path).start
    with path.open("rb") as stream:
        whole = hashlib.sha256(stream.read(start))
        payload = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            whole.update(chunk)
            payload.update(chunk)
    return Hashes(whole.hexdigest(), payload.hexdigest())
