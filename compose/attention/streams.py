"""Streams: further texts beside a row's own, each for some places of the picture.

In a layer of cross-attention the rows of a call are joined by one row for every stream: the image
tokens are those of the row that it belongs to, the text and the gate are the stream's. What comes
out is put together again by place. Nothing else in the denoiser sees more rows than before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compose.attention.capture import Capture
from compose.attention.intercept import AttentionCall, Forward, intercepted, shadowed
from compose.attention.layers import Images, Place, cross_layers
from compose.attention.watch import Watched
from compose.errors import CaptureError, ShapeError
from compose.gate import Gate
from compose.slot import GateSlot, Spatial, TokenLayout, resample
from compose.types import AttentionSite, Conditioning


@dataclass(frozen=True)
class Stream:
    """A text of its own for some places of the picture, in all layers of cross-attention.

    The queries are those of the pass, whatever the stream's gate does to them; keys, values and the
    layer's output projection are under the stream's text and gate. After the region-aware injection
    of LoRA-Composer (Yang et al. 2024, arXiv 2403.11627, section 4.1) and the regional sampling of
    Mix-of-Show (`pipeline_regionally_t2iadapter.py` of TencentARC/Mix-of-Show).

    Attributes:
        name: what it captures is found under "<pass>/<name>"; one of its own within the pass.
        conditioning: one row for every image, with as many text tokens as that of the pass; of its
            inputs only the token embeddings count.
        gate: one row, or one for every image.
        place: [images | 1, H, W] in [0, 1] at any resolution, resampled by area to the layer's
            grid: how much of the layer's output is the stream's. Streams that add up to more than
            one at a place share it in proportion; what they leave is the pass's own.
        capture: what of its attention is kept, over the whole grid; in cross-attention only.
    """

    name: str
    conditioning: Conditioning
    gate: Gate
    place: Tensor
    capture: Mapping[str, Capture] = field(default_factory=dict)


class Guest(NamedTuple):
    """A stream that joins some rows of a call.

    Attributes:
        of: name of the pass.
        stream: the stream.
        rows: rows of the call that it joins.
        images: images of the pass that they are.
    """

    of: str
    stream: Stream
    rows: slice
    images: Images


class Streams:
    """The streams of one denoiser call.

    Args:
        layers: of the denoiser.
        layout: where the call's image tokens lie.
        text: T, text tokens of the call.
        slot: of the denoiser.
        gate: of the call.
        guests: who joins which rows; none for a call that stays as it is.

    Attributes:
        watched: the rows of all guests, behind those of the call.
        modules: the layers that they join.

    Raises:
        CaptureError: a denoiser without cross-attention. From inside the call: a layer whose
            softmax is out of sight, or with other rows or tokens than the call's.
        ShapeError: a stream with another number of text tokens than the call.
    """

    def __init__(
        self,
        layers: Mapping[AttentionSite, nn.Module],
        layout: TokenLayout,
        text: int,
        slot: GateSlot,
        gate: Gate,
        guests: Sequence[Guest],
    ) -> None:
        self._guests, self._layout, self._slot, self._rows = guests, layout, slot, gate.rows
        self._layers = {s: m for s, m in layers.items() if guests and cross_layers()(s)}
        self._places = {site: Place(site, layout, text) for site in self._layers}
        self._shares: dict[tuple[int, int], tuple[Tensor, list[Tensor]]] = {}
        self._spatial: Spatial = {}
        self.modules: Collection[nn.Module] = list(self._layers.values())
        self.watched: list[Watched] = []
        if not guests:
            return
        if not self._layers:
            raise CaptureError(
                "texts for regions were to join cross-attention, which this denoiser does not have;"
                " expected one in which image tokens attend to text alone, such as a UNet"
            )
        self._gate = Gate.stack([gate, *map(_gate, guests)])
        self._text = torch.cat([_text(guest, text) for guest in guests])
        end = self._rows
        for guest in guests:
            end += guest.images.stop - guest.images.start
            behind = slice(end - guest.images.stop + guest.images.start, end)
            of, capture = f"{guest.of}/{guest.stream.name}", guest.stream.capture
            self.watched.append(Watched(of, behind, guest.images, capture, there=cross_layers()))

    @contextmanager
    def joining(self) -> Iterator[None]:
        """The call happens inside; afterwards all layers are as they were."""
        with ExitStack() as stack:
            for site, module in self._layers.items():
                wish = "texts for regions were to join"
                stack.enter_context(intercepted(module, self._asked, name=site.path, wish=wish))
                stack.enter_context(shadowed(module, partial(self._joined, self._places[site])))
            yield

    def _joined(self, place: Place, inner: Forward) -> Forward:
        """The forward of a layer with guests: [rows, n, d] to the same."""

        def forward(
            hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
        ) -> Tensor:
            self._check(place, hidden_states, encoder_hidden_states)
            image = self._with_guests(hidden_states)
            text = torch.cat([encoder_hidden_states, self._text.to(encoder_hidden_states)])
            with self._slot.hold(self._gate, self._layout, self._spatial):
                out: Tensor = inner(image, text, *args, **kwargs)
            return self._parted(out, place.grid)

        return forward

    def _asked(self, call: AttentionCall) -> Tensor:
        """Softmax attention in which guests ask with the queries of the rows that they join."""
        if call.number:
            return call.attend()
        return call.attend_from(self._with_guests(call.query[: self._rows]))

    def _with_guests(self, x: Tensor) -> Tensor:
        """[rows, ...] with a copy for every guest behind."""
        return torch.cat([x, *(x[guest.rows] for guest in self._guests)])

    def _parted(self, out: Tensor, grid: tuple[int, int]) -> Tensor:
        """What rows and guests came to, [rows + guests, n, d], put together by place."""
        rest, shares = self._shares_on(grid, out)
        whole = out[: self._rows] * rest
        for guest, watched, share in zip(self._guests, self.watched, shares, strict=True):
            whole[guest.rows] += out[watched.rows] * share
        return whole

    def _shares_on(self, grid: tuple[int, int], like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """How much of each place is left to the rows [rows, n, 1] and goes to each guest."""
        if grid not in self._shares:
            masks = [_mask(guest, grid).double() for guest in self._guests]
            total = masks[0].new_zeros(self._rows, *masks[0].shape[1:])
            for guest, mask in zip(self._guests, masks, strict=True):
                total[guest.rows] += mask
            most = total.clamp(min=1)
            shares = [
                (mask / most[guest.rows]).to(like)
                for guest, mask in zip(self._guests, masks, strict=True)
            ]
            self._shares[grid] = (1 - total.clamp(max=1)).to(like), shares
        return self._shares[grid]

    def _check(self, place: Place, image: Tensor, text: Tensor) -> None:
        n, length = place.shape
        given, expected = (*image.shape[:2], *text.shape[:2]), (self._rows, n, self._rows, length)
        if given != expected:
            raise CaptureError(
                f"{place.site.path} was given image tokens {list(image.shape)} and text tokens"
                f" {list(text.shape)}, which texts for regions were to join; expected"
                f" {self._rows} rows of {n} and of {length} tokens, so take out what merges tokens"
                " or splits rows there"
            )


def _gate(guest: Guest) -> Gate:
    images = guest.images
    return guest.stream.gate.expand(images.total).narrow(images.start, images.stop)


def _text(guest: Guest, length: int) -> Tensor:
    """Token embeddings [rows, T, D] of a guest."""
    embeds = guest.stream.conditioning.embeds
    if embeds.shape[1] != length:
        raise ShapeError(
            f"stream {guest.stream.name} of pass {guest.of} has {embeds.shape[1]} text tokens and"
            f" the pass {length}; expected as many, so encode both under the same options"
        )
    return embeds[guest.images.start : guest.images.stop]


def _mask(guest: Guest, grid: tuple[int, int]) -> Tensor:
    """Place of a guest on a grid, [rows | 1, n, 1]."""
    place = guest.stream.place
    rows = guest.images.among(place.shape[0], f"the place of stream {guest.stream.name}")
    return resample(place[rows].float(), grid).flatten(1)[..., None]
