"""Which attention layers are meant, and where image and text lie in one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from compose.errors import CaptureError, ShapeError
from compose.slot import TokenLayout
from compose.types import AttentionSite

LayerRule = Callable[[AttentionSite], bool]
"""Whether a layer is meant."""

Side = Literal["image", "text"]
"""Image tokens or text tokens, as queries or as keys."""


@dataclass(frozen=True)
class Layers:
    """Layers by what they attend to, how fine their grid is, and where they sit.

    Attributes:
        keys: of these kinds; see `AttentionSite`.
        level: whose grid is the latent's, halved this often; None for all. A model that never
            halves its grid, as transformers, has it at any level.
        blocks: whose block, or the block's first part, is among these ("mid", "up", "double.18");
            empty for all.
    """

    keys: tuple[str, ...]
    level: int | None = None
    blocks: tuple[str, ...] = ()

    def __call__(self, site: AttentionSite) -> bool:
        names = (site.block, site.block.split(".")[0])
        return (
            site.keys in self.keys
            and (self.level is None or site.level in (None, self.level))
            and (not self.blocks or any(name in self.blocks for name in names))
        )


def cross_layers() -> Layers:
    """Layers in which image tokens attend to text and to nothing else."""
    return Layers(("text",))


def text_layers(level: int | None = None, blocks: tuple[str, ...] = ()) -> Layers:
    """Layers in which image tokens attend to text: cross-attention and joint attention."""
    return Layers(("text", "joint"), level, blocks)


def image_layers(level: int | None = None, blocks: tuple[str, ...] = ()) -> Layers:
    """Layers in which image tokens attend to each other: self-attention and joint attention."""
    return Layers(("image", "joint"), level, blocks)


@dataclass(frozen=True)
class Place:
    """A layer in one denoiser call.

    Attributes:
        site: the layer.
        layout: where the call's image tokens lie.
        text: T, text tokens of the call.
    """

    site: AttentionSite
    layout: TokenLayout
    text: int

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Grid (h, w) of the image tokens."""
        return self.layout.grid(self.site.level or 0)

    @cached_property
    def queries(self) -> Mapping[Side, slice]:
        """Where the queries of image and text are."""
        return self._slices(("image", "text") if self.site.keys == "joint" else ("image",))

    @cached_property
    def keys(self) -> Mapping[Side, slice]:
        """Where the keys of image and text are."""
        if self.site.keys == "joint":
            return self.queries
        return self._slices((self.site.keys,))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of keys."""
        return _end(self.queries), _end(self.keys)

    def query(self, side: Side, wish: str) -> slice:
        """Where the queries of a side are.

        Args:
            side: image or text.
            wish: what they are for, for errors: "text queries were to be captured".

        Raises:
            CaptureError: the layer has none.
        """
        return self._find(self.queries, side, wish)

    def key(self, side: Side, wish: str) -> slice:
        """Where the keys of a side are; arguments and errors as of `query`."""
        return self._find(self.keys, side, wish)

    def _find(self, among: Mapping[Side, slice], side: Side, wish: str) -> slice:
        if side not in among:
            raise CaptureError(
                f"{wish} at {self.site.path}, a layer in which image tokens attend to"
                f" {self.site.keys} tokens; expected one with {side} tokens there, so choose other"
                " layers"
            )
        return among[side]

    def _slices(self, sides: tuple[Side, ...]) -> Mapping[Side, slice]:
        h, w = self.grid
        lengths = {"image": h * w, "text": self.text}
        ordered = sides[::-1] if self.layout.text_first else sides
        found: dict[Side, slice] = {}
        for side in ordered:
            start = _end(found)
            found[side] = slice(start, start + lengths[side])
        return found


def _end(slices: Mapping[Side, slice]) -> int:
    return max((s.stop for s in slices.values()), default=0)


class Images(NamedTuple):
    """Images `start` to `stop` (exclusive) of a pass over `total` images."""

    start: int
    stop: int
    total: int

    def among(self, rows: int, what: str) -> slice:
        """Which rows of something are theirs: all, where there is but one.

        Args:
            rows: how many it has.
            what: it is, for errors: "positions".

        Raises:
            ShapeError: neither one row, nor one for every image.
        """
        if rows not in (1, self.total):
            raise ShapeError(
                f"{what} of {rows} rows met a pass over {self.total} images; expected one row, or"
                " one for every image"
            )
        return slice(0, 1) if rows == 1 else slice(self.start, self.stop)
