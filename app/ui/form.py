"""What the page holds, as plain data, and the request that it asks for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from compose.adapters.library import AdapterLibrary
from compose.errors import RequestError
from compose.fusion import method as method_named
from compose.fusion import methods
from compose.method import CompositionMethod, GatedMethod, Value
from compose.product import SIGN
from compose.regions import Box, Mask, Region
from compose.request import AdapterUse, Request
from compose.types import Size

from ..flags import MAX_SIDE, read_region, read_seeds
from ..order import read_texts, refuse_twice

PAINTED = "painted"
"""Stands in the region of an adapter that has a painted mask."""
MAX_COUNT = 16
"""Most pictures of one click."""
_UI_SEEDS = 2**31


@dataclass(frozen=True)
class Row:
    """One adapter as the page shows it.

    Attributes:
        name: in the library.
        weight: in the denoiser.
        text_weight: in the text encoders; None for the same.
        region: "x0,y0,x1,y1", `PAINTED`, or empty for everywhere.
        words: words of the prompt that call it; empty for its own triggers.
    """

    name: str
    weight: float = 1.0
    text_weight: float | None = None
    region: str = ""
    words: str = ""

    def use(self, masks: Mapping[str, Mask]) -> AdapterUse:
        """The adapter of a request.

        Args:
            masks: painted ones, by name of the adapter.

        Raises:
            RequestError: a region that is no box, or a mask that was not painted.
        """
        return AdapterUse(
            self.name,
            self.weight,
            self.text_weight,
            region=self._region(masks),
            trigger=self.words.strip() or None,
        )

    def _region(self, masks: Mapping[str, Mask]) -> Region | None:
        text = self.region.strip()
        if not text:
            return None
        if text != PAINTED:
            return read_region(f"{self.name}={text}", [self.name])[1]
        if self.name not in masks:
            raise RequestError(
                f"the region of {self.name} is to be painted, but nothing was; expected a mask, so"
                " paint one under Regions or choose a box"
            )
        return masks[self.name]

    @classmethod
    def of(cls, use: AdapterUse) -> Self:
        """The row of an adapter of a request."""
        region = use.region
        shown = "" if region is None else str(region) if isinstance(region, Box) else PAINTED
        return cls(use.name, use.weight, use.text_weight, shown, use.trigger or "")


@dataclass(frozen=True)
class Form:
    """Everything on the page that decides a picture; fields as those of `Request`.

    Attributes:
        rows: adapters beside those that tags in the prompt name.
        masks: painted masks, by name of the adapter.
        method: name of a method or of a product.
        fields: of every method, by "method.field"; those of others than the chosen are passed over.
        width, height: in pixels.
        seed: of the first picture; None for a fresh one.
        count: how many pictures.
    """

    prompt: str
    negative: str = ""
    rows: tuple[Row, ...] = ()
    masks: Mapping[str, Mask] = field(default_factory=dict)
    method: str = "merge"
    fields: Mapping[str, Value] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    steps: int = 20
    guidance: float | None = None
    true_cfg: float | None = None
    clip_skip: int | None = None
    scheduler: str | None = None
    seed: int | None = None
    count: int = 1

    def request(self, library: AdapterLibrary) -> Request:
        """The request that the page asks for.

        Args:
            library: where adapters are looked up.

        Raises:
            ComposeError: something that makes no sense, as for the command line.
        """
        texts = read_texts(self.prompt, self.negative)
        adapters = (*texts.adapters, *(row.use(self.masks) for row in self.rows))
        request = Request(
            prompt=texts.text,
            negative=self.negative,
            adapters=adapters,
            method=self.chosen(self.method),
            size=self._size(),
            steps=self.steps,
            guidance=self.guidance,
            true_cfg=self.true_cfg,
            clip_skip=self.clip_skip,
            scheduler=self.scheduler,
            seeds=self._seeds(),
        )
        refuse_twice(adapters, library)
        return request

    def chosen(self, name: str) -> CompositionMethod:
        """A method with what the page says of its fields.

        Raises:
            RequestError: no such method, or a value out of range.
        """
        kind, own = method_named(name), {}
        for param in kind.params():
            full = param.name if SIGN in name else f"{name}.{param.name}"
            if full in self.fields:
                own[param.name] = self.fields[full]
        return kind.parse(own)

    def _size(self) -> Size | None:
        if self.width is None or self.height is None:
            return None
        if max(self.width, self.height) > MAX_SIDE:
            raise RequestError(
                f"size {self.width}x{self.height} is too large; expected sides of at most"
                f" {MAX_SIDE} pixels"
            )
        return Size(self.width, self.height)

    def _seeds(self) -> tuple[int, ...]:
        if not 1 <= self.count <= MAX_COUNT:
            raise RequestError(f"{self.count} pictures were asked for; expected 1 to {MAX_COUNT}")
        # a browser's numbers are exact up to 2**53 only, so fresh seeds stay far below
        first = secrets.randbelow(_UI_SEEDS) if self.seed is None else self.seed
        return read_seeds(first, self.count)

    @classmethod
    def of(cls, request: Request) -> Self:
        """The page that asks for a request of one picture."""
        parts = getattr(request.method, "parts", (request.method,))
        size = request.size
        return cls(
            prompt=request.prompt,
            negative=request.negative,
            rows=tuple(Row.of(use) for use in request.adapters),
            masks={n: r for n, r in request.regions.items() if isinstance(r, Mask)},
            method=request.method.name,
            fields={f"{p.name}.{n}": v for p in parts for n, v in p.values().items()},
            width=None if size is None else size.width,
            height=None if size is None else size.height,
            steps=request.steps,
            guidance=request.guidance,
            true_cfg=request.true_cfg,
            clip_skip=request.clip_skip,
            scheduler=request.scheduler,
            seed=request.seeds[0],
            count=len(request.seeds),
        )


def method_choices() -> list[tuple[str, str]]:
    """Titles and names of all methods, and of the products of two."""
    found = [(f"{kind.title}", name) for name, kind in methods().items()]
    gated = [k for k in methods().values() if issubclass(k, GatedMethod) and k.chooses]
    for first in gated:
        for second in gated:
            if _ORDER.index(first.chooses) < _ORDER.index(second.chooses) and _mere(first, second):
                both = SIGN.join((first.name, second.name))
                found.append((method_named(both).title, both))
    return found


_ORDER = ("words", "time", "place")


def _mere(*kinds: type[GatedMethod]) -> bool:
    """Whether a product of them is possible."""
    try:
        method_named(SIGN.join(kind.name for kind in kinds))
    except RequestError:
        return False
    return True
