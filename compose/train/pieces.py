"""Split a folder into a tar in small pieces and put it together again, to carry weights over a
narrow road."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from compose.errors import ModelError

PIECE = 15 * 2**20


def pack_folder(source: Path, target: Path, piece: int = PIECE) -> list[Path]:
    """Write `source` as target/pack.000, pack.001, ...

    Args:
        source: folder to pack.
        target: folder for the pieces; old pieces in it are removed.
        piece: largest size in bytes.

    Returns:
        The pieces in order.
    """
    if not source.is_dir():
        raise ModelError(f"cannot pack {source}: it is no folder")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                tar.add(path, arcname=str(path.relative_to(source)))
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("pack.*"):
        old.unlink()
    data = buffer.getvalue()
    pieces = []
    for index, start in enumerate(range(0, len(data), piece)):
        pieces.append(target / f"pack.{index:03d}")
        pieces[-1].write_bytes(data[start : start + piece])
    return pieces


def unpack_folder(source: Path, target: Path) -> None:
    """Join the pieces in `source` and unpack them into `target`."""
    pieces = sorted(source.glob("pack.*"))
    if not pieces:
        raise ModelError(f"no pieces pack.000, ... in {source}")
    target.mkdir(parents=True, exist_ok=True)
    joined = io.BytesIO(b"".join(path.read_bytes() for path in pieces))
    with tarfile.open(fileobj=joined) as tar:
        tar.extractall(target, filter="data")
