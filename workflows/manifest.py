"""The record of a batch: a line of JSON for what it is, and one for everything that happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compose.errors import BatchError
from compose.lines import read_lines

NAME = "manifest.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What happened to a picture.

    Attributes:
        state: "done", or "failed" in one attempt.
        item: its name.
        file: of the picture, relative to the manifest.
        attempt: counted from 1, in one run of the batch.
        seed: of its noise.
        axes: its place in the grid.
        prompt: as it was made.
        sha256: of the raw RGB bytes; empty where it failed.
        bytes_sha256: of the file; empty where it failed.
        seconds: that it took; those of its job divided by the pictures of the job.
        error: why it failed.
    """

    state: Literal["done", "failed"]
    item: str
    file: str
    attempt: int
    seed: int
    axes: Mapping[str, str]
    prompt: str
    sha256: str = ""
    bytes_sha256: str = ""
    seconds: float = 0.0
    error: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        identity: what the batch is; None where there is no manifest yet.
        entries: in the order in which they happened.
    """

    identity: Mapping[str, Any] | None
    entries: tuple[Entry, ...] = ()

    def done(self) -> dict[str, Entry]:
        """Name to entry of what is done."""
        return {entry.item: entry for entry in self.entries if entry.state == "done"}


def first_line(identity: Mapping[str, Any]) -> str:
    """The line that a manifest begins with."""
    return json.dumps({"format": FORMAT, **identity}, sort_keys=True)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder. A torn last line is left out.

    Raises:
        BatchError: it is not what a batch wrote.
    """
    lines = read_lines(folder / NAME)
    try:
        if not lines:
            return Manifest(None)
        identity = json.loads(lines[0])
        if identity.pop("format") != FORMAT:
            raise BatchError(
                f"{folder / NAME} is of another format; expected {FORMAT}, so use the version of"
                " lora-compose that wrote it, or another folder with --out"
            )
        return Manifest(identity, tuple(Entry(**json.loads(line)) for line in lines[1:]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BatchError(
            f"{folder / NAME} cannot be read ({error}); expected what a batch writes, so choose"
            " another folder with --out"
        ) from None


def check_identity(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], folder: Path, *, resume: bool
) -> None:
    """Refuse to mix two batches.

    Args:
        before: of the manifest that lies there; None where there is none.
        now: of the batch that is to be made.
        folder: for the message.
        resume: whether the batch that lies there is to go on.

    Raises:
        BatchError: there is a batch and it is not to go on, or it is another one.
    """
    if before is None:
        return
    if not resume:
        raise BatchError(
            f"{folder} holds a batch already; expected --resume to go on with it, or another"
            " folder with --out"
        )
    other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if other:
        raise BatchError(
            f"{folder} holds a batch with other {' and '.join(other)}; expected the same, since"
            " pictures of two kinds would be mixed: choose another folder with --out"
        )
