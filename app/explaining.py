"""What each adapter did, told: a sheet of overlays beside the picture, JSON, and a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from compose.explain import Explained, Explanation
from compose.result import ComposedImage

from .grid import shown_size
from .overlays import Colour, colour, enlarged, outlined, overlaid
from .panels import Heading, Panel, Row, draw_panels

SHEET = "lora_compose_explain"
"""Key of the report in a sheet's own metadata."""
_DIGITS = 6
_THIN = 0.6
"""How much of the picture a mask covers."""
_NOTES = (
    "words: how much of a place's attention to the text goes to the words; every map from its own"
    " weakest to its own strongest place.",
    "effect: how far the guided prediction moves when the adapter is taken out, drawn as its"
    " square root, so that small effects show; all maps on one scale, the adapter's own region"
    " framed. shares: the colours mixed in proportion, as strong as all effects together.",
)
_WHERE = {"drawn": "drawn", "automatic": "found by the method", None: "everywhere"}


def report(explanation: Explanation) -> dict[str, Any]:
    """The figures, as JSON can hold them."""
    pairs = zip(explanation.adapters, explanation.shares, strict=True)
    return {
        "steps": explanation.steps,
        "calls": asdict(explanation.calls),
        "adapters": [_figures(adapter, share) for adapter, share in pairs],
    }


def _figures(adapter: Explained, share: float) -> dict[str, Any]:
    bleed = adapter.bleed
    return {
        "name": adapter.name,
        "share": round(share, _DIGITS),
        "effect": round(adapter.strength, _DIGITS),
        "region": adapter.origin,
        "bleed": None if bleed is None else round(bleed.outside, _DIGITS),
        "bleed_if_even": None if bleed is None else round(bleed.even, _DIGITS),
        "words": adapter.words or None,
        "acted": adapter.acted,
        "looked": list(adapter.looked),
        "text_encoder_kept": adapter.text_kept,
    }


def line(made: ComposedImage, explanation: Explanation) -> str:
    """The same for people."""
    pairs = zip(explanation.adapters, explanation.shares, strict=True)
    return f"seed {made.seed}: " + "; ".join(_told(adapter, share) for adapter, share in pairs)


def _told(adapter: Explained, share: float) -> str:
    if not adapter.effect.any():
        return f"{adapter.name} did nothing"
    told = f"{adapter.name} made {share:.0%} of the change"
    if adapter.bleed is None:
        return f"{told} and has no region"
    return (
        f"{told}, {adapter.bleed.outside:.0%} of it outside its region"
        f" ({adapter.bleed.even:.0%} if it were even)"
    )


def sheet_bytes(made: ComposedImage, explanation: Explanation) -> bytes:
    """The sheet as a PNG file, with the report in it."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(SHEET, json.dumps(report(explanation), allow_nan=False))
    out = io.BytesIO()
    draw_sheet(made, explanation).save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def draw_sheet(made: ComposedImage, explanation: Explanation) -> Image.Image:
    """Overlays of words, masks and effects: a row each, a column for every adapter.

    The first column holds what concerns all of them: the picture, all masks, and the shares. There
    is no row of masks where none tells places apart.
    """
    request, hues = made.request, [colour(k) for k in range(len(explanation.adapters))]
    names = [f"{adapter.name} {use.weight:g}" for adapter, use in _uses(made, explanation)]
    canvas = _Canvas(made.image.convert("RGB"), explanation)
    return draw_panels(
        list(canvas.rows()),
        [Heading("all"), *(Heading(n, hue) for n, hue in zip(names, hues, strict=True))],
        canvas.size,
        title=request.prompt,
        subtitle=f"{request.method.name}, seed {made.seed}, {request.steps} steps",
        notes=_NOTES,
    )


def _uses(made: ComposedImage, explanation: Explanation) -> Iterator[tuple[Explained, Any]]:
    return zip(explanation.adapters, made.request.adapters, strict=True)


@dataclass(frozen=True)
class _Canvas:
    """Draws the panels of one picture."""

    picture: Image.Image
    explanation: Explanation

    @property
    def size(self) -> tuple[int, int]:
        return shown_size(self.picture.size)

    def rows(self) -> Iterator[Row]:
        adapters = list(enumerate(self.explanation.adapters))
        first = Panel(enlarged(self.picture, self.size), "the picture")
        yield Row("words", (first, *(self._words(k, a) for k, a in adapters)))
        if self._masks:
            yield Row("mask", (self._all_masks(), *(self._mask(k, a) for k, a in adapters)))
        pairs = zip(adapters, self.explanation.shares, strict=True)
        effects = (self._effect(k, a, share) for (k, a), share in pairs)
        yield Row("effect", (self._shares(), *effects))

    def _one(self, values: Tensor, k: int) -> Image.Image:
        """One map [h, w] in the colour of adapter `k`."""
        return overlaid(self.picture, values[None], [colour(k)], self.size)

    def _flat(self, masks: Sequence[Tensor], hues: Sequence[Colour]) -> Image.Image:
        """Masks cell by cell, so thin that the picture can be seen through them."""
        maps, size = torch.stack(list(masks)), self.size
        return overlaid(self.picture, maps, hues, size, smooth=False, opaque=_THIN)

    def _words(self, k: int, adapter: Explained) -> Panel:
        if adapter.attention is None:
            return Panel(None, "the prompt does not call it" if adapter.acted else "never acted")
        low, high = float(adapter.attention.min()), float(adapter.attention.max())
        shown = (adapter.attention - low) / ((high - low) or 1.0)
        caption = f"'{adapter.words}'\n{low:.1%} to {high:.1%} of the attention"
        return Panel(self._one(shown, k), caption)

    def _mask(self, k: int, adapter: Explained) -> Panel:
        if adapter.mask is None:
            return Panel(None, "no mask")
        caption = f"{_WHERE[adapter.origin]}\n{float(adapter.mask.mean()):.0%} of the picture"
        return Panel(self._flat([adapter.mask], [colour(k)]), caption)

    @property
    def _masks(self) -> list[tuple[Tensor, Colour]]:
        """The masks [H, W] that tell places apart, and their colours."""
        masks = ((a.mask, colour(k)) for k, a in enumerate(self.explanation.adapters))
        return [(m, hue) for m, hue in masks if m is not None and m.min() < m.max()]

    def _all_masks(self) -> Panel:
        masks, hues = zip(*self._masks, strict=True)
        return Panel(self._flat(masks, hues), "all masks that tell places apart")

    @property
    def _effects(self) -> Tensor:
        return torch.stack([a.effect for a in self.explanation.adapters])  # [K, H, W]

    def _effect(self, k: int, adapter: Explained, share: float) -> Panel:
        if not adapter.acted:
            return Panel(None, "never acted")
        shown = self._one((adapter.effect / (float(self._effects.max()) or 1.0)).sqrt(), k)
        caption = f"{share:.0%} of the change"
        if adapter.region is not None:
            shown = outlined(shown, adapter.region, colour(k))
        if adapter.bleed is not None:
            caption += f"\n{adapter.bleed.outside:.0%} outside (even: {adapter.bleed.even:.0%})"
        return Panel(shown, caption)

    def _shares(self) -> Panel:
        total = self._effects.sum(dim=0)
        maps = self.explanation.share_maps * (total / (float(total.max()) or 1.0)).sqrt()
        hues = [colour(k) for k in range(len(maps))]
        return Panel(overlaid(self.picture, maps, hues, self.size), "shares")
