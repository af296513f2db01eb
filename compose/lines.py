"""Files of lines that only grow, and of which every whole line outlives a crash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file, none where there is no file. A torn last line is left out."""
    if not path.is_file():
        return []
    return path.read_bytes().decode(errors="replace").split("\n")[:-1]


class Journal:
    """Adds lines at the end of a file; a torn last line is cut off first.

    Args:
        path: made when missing, with its folder.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a+b")
        self._stream.seek(0)
        data = self._stream.read()
        self._stream.truncate(data.rfind(b"\n") + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stream.close()

    def add(self, lines: Iterable[str]) -> None:
        """Add lines; they are on the disk when this returns."""
        self._stream.write(b"".join(line.encode() + b"\n" for line in lines))
        self._stream.flush()
        os.fsync(self._stream.fileno())
