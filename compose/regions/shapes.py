"""The forms of a region: a box, or a mask of grey pixels."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compose.errors import RequestError
from compose.regions.area import edges, means, overlap

MAX_SIDE = 4096
"""Widest and highest mask, in pixels."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A rectangle, in fractions of the picture's width (x) and height (y) from the top left.

    Raises:
        RequestError: it is empty or leaves the picture.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 <= 1 and 0 <= self.y0 < self.y1 <= 1):
            raise RequestError(
                f"{self} is no box; expected x0,y0,x1,y1 as fractions of width and height with"
                " 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, such as 0,0,0.5,1 for the left half"
            )

    def __str__(self) -> str:
        return ",".join(f"{edge:g}" for edge in (self.x0, self.y0, self.x1, self.y1))

    @property
    def peak(self) -> float:
        """Its largest value."""
        return 1.0

    def on(self, grid: Grid) -> Tensor:
        """How much of each cell it covers, [h, w] float64."""
        rows = overlap(edges(grid[0]), self.y0 * grid[0], self.y1 * grid[0])
        columns = overlap(edges(grid[1]), self.x0 * grid[1], self.x1 * grid[1])
        return rows[:, None] * columns

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold; `region_from_json` reads it back."""
        return {"box": [self.x0, self.y0, self.x1, self.y1]}


@dataclass(frozen=True)
class Mask:
    """A grey picture of any resolution: white where an adapter acts in full, black where not.

    Attributes:
        width, height: in pixels.
        pixels: one byte each, row by row from the top left.

    Raises:
        RequestError: it is black all over, too large, or not as long as it should be.
    """

    width: int
    height: int
    pixels: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise RequestError(
                f"a mask of {self.width}x{self.height} pixels was given; expected sides of 1 to"
                f" {MAX_SIDE}, so make it smaller: the size of the picture is more than enough"
            )
        if len(self.pixels) != self.width * self.height:
            raise RequestError(
                f"a mask of {self.width}x{self.height} pixels has {len(self.pixels)} values;"
                " expected one for each pixel"
            )
        if not any(self.pixels):
            raise RequestError(
                "a mask is black all over; expected it white where the adapter acts, so draw it or"
                " leave the adapter out"
            )

    def __str__(self) -> str:
        return f"a mask of {self.width}x{self.height}"

    @property
    def peak(self) -> float:
        """Its largest value, in (0, 1]."""
        return max(self.pixels) / 255

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a PNG file; what is transparent in it counts as black.

        Raises:
            RequestError: no PNG, a picture in colour, or no mask.
        """
        try:
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
                return cls.of(image)
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            why = getattr(error, "strerror", None) or "it is no sound PNG picture"
            raise RequestError(
                f"{path} cannot be read as a mask ({why}); expected a PNG picture in black and"
                " white or grey"
            ) from None

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """The mask that a picture shows.

        Raises:
            RequestError: a picture in colour, or no mask.
        """
        if image.mode.startswith("I;16"):  # 16 bits of grey
            wide = np.asarray(image).astype(np.float64)
            values = np.rint(wide / 257).astype(np.uint8)
        else:
            rgba = np.asarray(image.convert("RGBA"))
            values = rgba[..., 0]
            if (rgba[..., 1:3] != values[..., None])[rgba[..., 3] > 0].any():
                raise RequestError("the mask is in colour; expected black and white or grey")
            values = np.rint(values * (rgba[..., 3] / 255)).astype(np.uint8)
        return cls(image.width, image.height, values.tobytes())

    def on(self, grid: Grid) -> Tensor:
        """Its mean over each cell, [h, w] float64."""
        values = np.frombuffer(self.pixels, np.uint8).reshape(self.height, self.width) / 255
        rows, columns = means(grid[0], self.height), means(grid[1], self.width)
        return rows @ torch.from_numpy(values) @ columns.T

    @cached_property
    def packed(self) -> bytes:
        """The pixels, compressed without loss."""
        return zlib.compress(self.pixels, 9)

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold; `region_from_json` reads it back."""
        packed = base64.b64encode(self.packed).decode()
        return {"mask": {"width": self.width, "height": self.height, "zlib": packed}}

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> Self:
        width, height = int(data["width"]), int(data["height"])
        most = min(max(width * height, 0), MAX_SIDE**2) + 1  # more says that it is broken
        try:
            packed = base64.b64decode(data["zlib"], validate=True)
            pixels = zlib.decompressobj().decompress(packed, most)
        except (binascii.Error, zlib.error) as error:
            raise RequestError(
                f"a mask cannot be unpacked ({error}); expected a whole one"
            ) from None
        return cls(width, height, pixels)


Region = Box | Mask


def region_from_json(data: Mapping[str, Any]) -> Region:
    """Read what `Box.to_json` or `Mask.to_json` wrote.

    Raises:
        RequestError: a region that makes no sense.
        KeyError, TypeError, ValueError: another form.
    """
    if "box" in data:
        return Box(*map(float, data["box"]))
    return Mask._from_json(data["mask"])
