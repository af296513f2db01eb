"""From a gate to the numbers of one layer: streams, grids and the slot that gated layers read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from compose.errors import ShapeError
from compose.gate import Gate, times
from compose.types import Role, Site

_TIE = 1e-3
"""Cells that differ by less, as a share, are equally strong: rounding may have parted them."""


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one denoiser call lie.

    Attributes:
        height, width: grid of the image tokens at level 0, in tokens.
        text_first: order of a joint sequence: text before image (FLUX) or after it (SD3).
    """

    height: int
    width: int
    text_first: bool = True

    def grid(self, level: int) -> tuple[int, int]:
        """Grid (h, w) after `level` halvings; a stride-2 convolution rounds up."""
        h, w = self.height, self.width
        for _ in range(level):
            h, w = -(-h // 2), -(-w // 2)
        return h, w


class Change(NamedTuple):
    """What a layer holds back of a change, for every query to see by a gate of its own.

    Attributes:
        output: [rows, n, d_out] of the layer without it.
        low: [rows, n, R], ``x A^T`` under all other parts of the gate.
        up: [d_out, R].
        owner: [R] which adapter each rank belongs to.
    """

    output: Tensor
    low: Tensor
    up: Tensor
    owner: Tensor


Spatial = dict[tuple[str, int, int], Tensor]
"""Stream, level and length to text and image parts of a gate, [rows, 1 | n, K]."""


class GateSlot:
    """Where the gated layers of one component find the gate of the running call.

    Empty outside a call.

    Attributes:
        gate, layout: of the running call.
        uneven: adapters that a gate over queries treats differently from place to place.
        changes: path of an attention layer and role of a module in it to what the module holds
            back; the attention layer takes it out.
    """

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.layout: TokenLayout | None = None
        self.uneven: tuple[int, ...] = ()
        self.changes: dict[tuple[str, Role], Change] = {}
        self._spatial: Spatial = {}

    @contextmanager
    def hold(
        self, gate: Gate, layout: TokenLayout | None = None, spatial: Spatial | None = None
    ) -> Iterator[None]:
        """Put a gate in for the length of a call; whatever was there before comes back, also after
        an exception.

        Args:
            gate, layout: of the call.
            spatial: keeps what is worked out for them, for when they are put in again.
        """
        before = (self.gate, self.layout, self._spatial, self.uneven, self.changes)
        self.gate, self.layout = gate, layout
        self._spatial = {} if spatial is None else spatial
        self.uneven, self.changes = uneven(gate), {}
        try:
            yield
        finally:
            self.gate, self.layout, self._spatial, self.uneven, self.changes = before

    def resolve(self, site: Site, x: Tensor) -> Tensor:
        """The gate at a site.

        Args:
            site: where.
            x: the layer's input, [rows, n, d] for a linear (vectors as one token each), [rows, C,
                H, W] for a convolution.

        Returns:
            [rows, 1 | n, K] for a linear, where n counts the grid of the output for a convolution,
            on x's device.

        Raises:
            ShapeError: the gate has another number of rows or tokens than the input.
        """
        gate = self.gate
        if gate is None:
            raise ShapeError(f"no gate is set for {site.name}; expected one inside a run")
        if gate.rows != x.shape[0]:
            raise ShapeError(
                f"a gate of {gate.rows} rows met {x.shape[0]} rows at {site.name}; they must agree"
            )
        out = gate.weight.to(x.device)[:, None, :]  # [rows, 1, K]
        tokens = x.shape[1] if x.ndim == 3 else 1
        spatial = self._tokens(gate, site, tokens, x.device)
        if spatial is not None:
            out = out * spatial
        if gate.site is not None:
            factor = gate.site(site).to(out)
            out = out * (factor if factor.ndim == 2 else factor[None])[:, None, :]
        if gate.router is not None:
            out = out * gate.router(site, x)
        return out

    def held_back(self, site: Site) -> tuple[int, ...]:
        """Adapters whose change of a module every query sees by a gate of its own."""
        return self.uneven if site.role else ()

    def hold_back(self, site: Site, change: Change) -> None:
        """Leave a change to the attention layer that the module belongs to."""
        self.changes[site.path.rpartition(".")[0], site.role] = change

    def queries(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The gate over queries for image tokens on a grid (h, w), [rows, h * w, K].

        Raises:
            ShapeError: the slot holds no such gate.
        """
        if self.gate is None or self.gate.queries is None:
            raise ShapeError("a gate over queries was asked for; expected one inside a run")
        key = ("queries", *grid)
        if key not in self._spatial:
            part = resample(self.gate.queries, grid).flatten(2).transpose(1, 2)
            self._spatial[key] = part.to(device, torch.float32)
        return self._spatial[key]

    def _tokens(self, gate: Gate, site: Site, tokens: int, device: torch.device) -> Tensor | None:
        """Text and image parts at a site, [rows, 1 | n, K]; shared by all sites of one stream,
        level and length.
        """
        if gate.text is None and gate.image is None and gate.queries is None:
            return None
        key = (site.stream if site.kind == "linear" else "conv", site.level, tokens)
        if key not in self._spatial:
            part = token_gate(gate, site, tokens, self.layout)
            self._spatial[key] = (
                part.to(device, torch.float32)
                if part is not None
                else torch.ones(1, 1, 1, device=device)
            )
        return self._spatial[key]


def token_gate(gate: Gate, site: Site, tokens: int, layout: TokenLayout | None) -> Tensor | None:
    """The text and image parts of a gate on the tokens of a site.

    Args:
        gate: with text [rows, T, K] and image [rows, K, H, W] parts, either absent.
        site: its stream decides which parts enter.
        tokens: n, tokens in the input of a linear; ignored for convolutions.
        layout: grid of the call; needed for image parts.

    Returns:
        [rows, 1 | n, K], or None when no part enters this site.
    """
    if gate.queries is not None and site.stream in ("text", "joint") and not site.role:
        raise ShapeError(
            f"a gate over queries reached {site.name}, whose words are seen by other words too;"
            " expected a model in which image tokens attend to text alone"
        )
    if site.stream == "text":
        if gate.text is not None and gate.text.shape[1] != tokens:
            raise ShapeError(
                f"a text gate over {gate.text.shape[1]} tokens met {tokens} tokens at {site.name}"
            )
        return times(gate.text, _even(gate))
    if site.stream == "vector":
        return None if gate.image is None else gate.image.mean(dim=(2, 3))[:, None, :]
    if site.stream == "image":
        if gate.image is None:
            return None
        grid = _grid_gate(gate.image, site, layout)
        if site.kind == "linear" and grid.shape[1] != tokens:
            raise ShapeError(
                f"an image gate over {grid.shape[1]} tokens met {tokens} tokens at {site.name}"
            )
        return grid
    return _joint_gate(gate, site, tokens, layout)


def uneven(gate: Gate) -> tuple[int, ...]:
    """Adapters of which a gate over queries says different things at different places."""
    if gate.queries is None:
        return ()
    low, high = gate.queries.amin((2, 3)), gate.queries.amax((2, 3))
    return tuple((low != high).any(dim=0).nonzero().flatten().tolist())


def _even(gate: Gate) -> Tensor | None:
    """What a gate over queries says of all other adapters, [rows, 1, K]; one for the uneven."""
    if gate.queries is None:
        return None
    same = gate.queries[:, None, :, 0, 0].clone()
    same[..., uneven(gate)] = 1.0
    return same


def _grid_gate(image: Tensor, site: Site, layout: TokenLayout | None) -> Tensor:
    """[rows, K, H, W] to [rows, h * w, K] on the site's grid."""
    if layout is None:
        raise ShapeError(
            f"an image gate reached {site.name} without a token layout; the family must give one"
        )
    return resample(image, layout.grid(site.level)).flatten(2).transpose(1, 2)


def _joint_gate(gate: Gate, site: Site, tokens: int, layout: TokenLayout | None) -> Tensor:
    if layout is None:
        raise ShapeError(f"a token gate reached the joint site {site.name} without a token layout")
    h, w = layout.grid(site.level)
    rows, adapters = gate.rows, gate.adapters
    text = gate.text if gate.text is not None else torch.ones(rows, tokens - h * w, adapters)
    image = (
        torch.ones(rows, h * w, adapters)
        if gate.image is None
        else _grid_gate(gate.image, site, layout)
    )
    if text.shape[1] + image.shape[1] != tokens:
        raise ShapeError(
            f"{text.shape[1]} text and {image.shape[1]} image tokens do not make up the {tokens}"
            f" tokens at {site.name}"
        )
    image = image.to(text.device)
    return torch.cat([text, image] if layout.text_first else [image, text], dim=1)


def resample(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample by area: [..., H, W] to [..., h, w].

    A region that fills no cell of a coarse grid keeps one all the same: see `with_peak`.
    """
    if tuple(mask.shape[-2:]) == grid:
        return mask
    mask = mask.float()
    return with_peak(functional.adaptive_avg_pool2d(mask, grid), mask.abs().amax((-2, -1)))


def with_peak(mask: Tensor, peak: Tensor) -> Tensor:
    """Raise the strongest cells of a mask to the strength that it had before averaging.

    Averaging by area spreads a small region thin: a tenth of the picture's width is less than a
    whole cell on an 8 x 8 grid even where it lies best. So a region keeps at least one cell.

    Args:
        mask: [..., h, w] on some grid.
        peak: [...] largest value before averaging, by amount.
    """
    size, peak = mask.abs(), peak[..., None, None]
    most = size.amax((-2, -1), keepdim=True)
    best = size >= most * (1 - _TIE)
    return torch.where(best & (most < peak), mask.sign() * peak, mask)
