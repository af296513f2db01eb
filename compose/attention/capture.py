"""What of a layer's attention is to be kept, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from compose.attention.columns import columns
from compose.attention.layers import Images, LayerRule, Place, Side
from compose.errors import CaptureError, ShapeError
from compose.types import AttentionSite

Norm = Literal["full", "text", "none"]
_WISH = "attention was to be captured"


class Seen(NamedTuple):
    """The attention of some rows in one layer.

    Attributes:
        place: the layer.
        query: [rows, heads, n_q, d], as the softmax gets it; d may be more than that of the output
            (`compose.attention.places`).
        key: [rows, heads, n_k, d].
        mask: that the softmax got, with a row axis of `rows` or 1; None for none.
        scale: of the products.
        output: [rows, heads, n_q, d].
    """

    place: Place
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    output: Tensor


class Capture(Protocol):
    """Something to be kept of chosen layers.

    Attributes:
        layers: which.
    """

    @property
    def layers(self) -> LayerRule:
        """Which layers."""
        ...

    def take(self, seen: Seen, images: Images) -> Tensor:
        """What is kept, with a leading row axis.

        Args:
            seen: some rows in one of the layers.
            images: which images of the pass the rows are.
        """
        ...


@dataclass(frozen=True)
class Columns:
    """How much image tokens and some tokens attend to each other.

    The values are those of the softmax that the layer computes, exactly: with its masks and biases,
    over all of its keys. The layer itself runs as ever.

    Attributes:
        layers: which.
        positions: of the tokens: on the text axis of the conditioning, or on the layer's grid when
            both sides are the image. One row, or one for every image; None for all tokens.
        queries, keys: who attends to whom: the image to the text, the text to the image (in joint
            attention) or the image to itself.
        norm: "full" for probabilities over all keys of the layer; "text" for probabilities among
            its text keys; "none" for the logits before the softmax. The first two differ in joint
            attention only.
        heads: whether heads stay apart; else their mean is taken.

    Raises:
        CaptureError: text that attends to text, or `norm` "text" without text keys.
        ShapeError: rows of positions of different lengths.
    """

    layers: LayerRule
    positions: Sequence[Sequence[int]] | None = None
    queries: Side = "image"
    keys: Side = "text"
    norm: Norm = "full"
    heads: bool = False

    def __post_init__(self) -> None:
        if self.queries == self.keys == "text":
            raise CaptureError(
                "text that attends to text was to be captured; expected image tokens on one side"
            )
        if self.norm == "text" and self.keys == "image":
            raise CaptureError(
                "norm text was asked for with keys of the image; expected norm full or none"
            )
        if self.positions is not None and len({len(row) for row in self.positions}) != 1:
            raise ShapeError(
                f"positions of {[len(row) for row in self.positions]} tokens; expected rows of one"
                " length, and at least one row"
            )

    def take(self, seen: Seen, images: Images) -> Tensor:
        """[rows, heads | 1, n, P]: image tokens n, in the order of their grid, and tokens P."""
        place = seen.place
        queries = place.query(self.queries, f"{_WISH} from the {self.queries}")
        keys = place.key(self.keys, f"{_WISH} to the {self.keys}")
        rows = seen.query.shape[0]
        query, key, mask, first = seen.query[:, :, queries], seen.key, seen.mask, keys.start
        if mask is not None:
            mask = mask.expand(*mask.shape[:-2], *place.shape)[..., queries, :]
        if self.norm == "text":
            key, first = key[:, :, keys], 0
            mask = None if mask is None else mask[..., keys]
        length = keys.stop - keys.start
        if self.queries == "text":  # the chosen tokens are queries; every image token is a column
            tokens = self._tokens(images, rows, place.text, query.device)[:, None, :, None]
            query = query.take_along_dim(tokens, dim=2)
            if mask is not None:
                mask = mask.expand(rows, *mask.shape[1:]).take_along_dim(tokens, dim=2)
            index = torch.arange(length, device=query.device).expand(rows, -1)
        else:
            index = self._tokens(images, rows, length, query.device)
        found = columns(
            query,
            key,
            index + first,
            scale=seen.scale,
            mask=mask,
            kind="logits" if self.norm == "none" else "probabilities",
            heads=self.heads,
        )
        return found.transpose(-1, -2) if self.queries == "text" else found

    def _tokens(self, images: Images, rows: int, length: int, device: torch.device) -> Tensor:
        """Positions [rows, P] of the tokens for some images of the pass."""
        if self.positions is None:
            return torch.arange(length, device=device).expand(rows, -1)
        chosen = self.positions[images.among(len(self.positions), "positions")]
        given = torch.tensor([list(row) for row in chosen], dtype=torch.long)
        if given.numel() and (int(given.min()) < 0 or int(given.max()) >= length):
            raise CaptureError(
                f"attention at positions {sorted(set(given.flatten().tolist()))} was to be"
                f" captured; expected positions from 0 to {length - 1}"
            )
        return given.to(device).expand(rows, -1)


@dataclass(frozen=True)
class Outputs:
    """What attention gives to the image tokens, before the layer's output projection.

    Attributes:
        layers: which.
    """

    layers: LayerRule

    def take(self, seen: Seen, images: Images) -> Tensor:
        """[rows, heads, n, d] of the image tokens, in the order of their grid."""
        del images
        return seen.output[:, :, seen.place.query("image", _WISH)]


class LayerCapture(NamedTuple):
    """What was kept of one layer.

    Attributes:
        site: the layer.
        grid: (h, w) of its image tokens.
        values: [images, heads | 1, n, P] of `Columns`, [images, heads, n, d] of `Outputs`.
    """

    site: AttentionSite
    grid: tuple[int, int]
    values: Tensor


Captured = Mapping[str, Mapping[str, tuple[LayerCapture, ...]]]
"""Name of a pass and name of a capture to what was kept, layer by layer as they ran."""


class Record(NamedTuple):
    """What was kept of some rows of one pass in one layer."""

    of: str
    name: str
    layer: LayerCapture


def gathered(records: Iterable[Record]) -> Captured:
    """What several denoiser calls kept, in the order of their rows, put together by pass."""
    found: dict[str, dict[str, dict[AttentionSite, list[LayerCapture]]]] = {}
    for of, name, layer in records:
        layers = found.setdefault(of, {}).setdefault(name, {})
        layers.setdefault(layer.site, []).append(layer)
    return {
        of: {name: tuple(map(_joined, layers.values())) for name, layers in names.items()}
        for of, names in found.items()
    }


def _joined(parts: list[LayerCapture]) -> LayerCapture:
    if len(parts) == 1:
        return parts[0]
    return parts[0]._replace(values=torch.cat([part.values for part in parts]))
