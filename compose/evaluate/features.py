"""Features of the pictures of an evaluation, for measures of many pictures at once.

They lie in ``features.safetensors`` beside the records: for every row a tensor [n, 192] of its
name, and in the header, as JSON, the case and seed of each of its n pictures. The file is made from
the pictures alone, one picture at a time, so it can be deleted and comes out the same again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from compose.adapters.saving import write_file
from compose.errors import RequestError
from compose.evaluate.records import Record
from compose.evaluate.rows import ALONE
from compose.world.reading import load_recognizer

NAME = "features.safetensors"
Key = tuple[str, int]
"""Case and seed."""


@dataclass(frozen=True)
class RowFeatures:
    """Features of the pictures of one row.

    Attributes:
        keys: case and seed of each.
        values: [n, 192], means and maxima over the picture of the recognizer's fused features; each
            row has the length sqrt(192), so that the kernel of KID sees angles only.
    """

    keys: tuple[Key, ...]
    values: Tensor

    def at(self, keys: Iterable[Key]) -> Tensor:
        """Features of some pictures, in this order."""
        places = {key: i for i, key in enumerate(self.keys)}
        return self.values[[places[key] for key in keys]]


def read_features(folder: Path) -> dict[str, RowFeatures]:
    """Features by row; nothing where there is no file."""
    path = folder / NAME
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        keys = json.loads(file.metadata()["keys"])
        return {
            row: RowFeatures(tuple((case, seed) for case, seed in listed), file.get_tensor(row))
            for row, listed in keys.items()
        }


def update_features(folder: Path, records: Iterable[Record]) -> None:
    """Look at every picture that has no features yet, and write the file anew.

    The row "alone" is left out: its pictures show several adapters side by side.

    Args:
        folder: of the records and pictures.
        records: of all pictures.

    Raises:
        RequestError: a picture is missing or cannot be read.
    """
    known = {
        (row, key): value
        for row, features in read_features(folder).items()
        for key, value in zip(features.keys, features.values, strict=True)
    }
    wanted: dict[str, dict[Key, Tensor]] = {}
    look = _Look()
    for record in records:
        key = record.case, record.seed
        if record.row != ALONE:
            found = known.get((record.row, key))
            value = look(folder / record.image) if found is None else found
            wanted.setdefault(record.row, {})[key] = value
    if look.taken or not (folder / NAME).is_file():
        _write(folder / NAME, wanted)


def _write(path: Path, rows: Mapping[str, Mapping[Key, Tensor]]) -> None:
    tensors = {row: torch.stack(list(values.values())) for row, values in rows.items()}
    keys = {row: list(values) for row, values in rows.items()}
    write_file(path, tensors, {"keys": json.dumps(keys)})


class _Look:
    """Features of picture files; counts those it has looked at."""

    def __init__(self) -> None:
        self.recognizer = load_recognizer()
        self.taken = 0

    @torch.inference_mode()
    def __call__(self, path: Path) -> Tensor:
        """[192]."""
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise RequestError(
                f"{path} belongs to a record and cannot be read ({error}); expected the picture"
                " that was written with it, so bring it back or start in an empty folder"
            ) from None
        self.taken += 1
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        fused = self.recognizer(images).fused  # [1, 96, 32, 32]
        pooled = torch.cat([fused.mean((2, 3)), fused.amax((2, 3))], 1)[0]
        scaled: Tensor = functional.normalize(pooled, dim=0) * pooled.numel() ** 0.5
        return scaled
