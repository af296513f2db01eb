"""Output folders, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compose.errors import RequestError


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """A folder that can be written to. Made when missing, and removed again if nothing comes of it.

    Args:
        folder: where results are to go.

    Raises:
        RequestError: it cannot be made or written to.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{secrets.token_hex(8)}.part"
            probe.open("xb").close()
            probe.unlink()
        except OSError as error:
            raise _refused(folder, error) from None
        yield folder
    finally:
        for path in missing:
            with suppress(OSError):  # not empty: something was made after all
                path.rmdir()


def write_new(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write a new file. Nothing is overwritten: a taken name gets a number, ``stem-2``.

    Args:
        folder: that exists.
        stem: name without number and suffix.
        suffix: with its dot.
        data: the whole content.

    Returns:
        The file.

    Raises:
        RequestError: it cannot be written. No part of it stays.
    """
    part = folder / f".{stem}.{secrets.token_hex(4)}.part"
    try:
        with part.open("xb") as stream:
            stream.write(data)
        for number in itertools.count(1):
            target = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
            if _claim(part, target):
                return target
    except OSError as error:
        raise _refused(folder, error) from None
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _claim(part: Path, target: Path) -> bool:
    """Give a finished file its name unless that is taken."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if target.exists():  # a file system without links, where this is the best there is
            return False
        part.rename(target)
    return True


def _refused(folder: Path, error: OSError) -> RequestError:
    return RequestError(
        f"{folder} cannot be written to ({error.strerror or error}); expected a folder with room"
        " and with permission to write, so choose another with --out"
    )
