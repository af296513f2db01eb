"""The gate: how much of each adapter reaches each sample, token and layer.

A composition method says what it wants by building a `Gate`. All parts of a gate are factors of one
product, and an absent part counts as one. `compose.slot` turns a gate into the numbers that a
single layer needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from compose.errors import ShapeError
from compose.types import Site

Rule = Callable[..., Tensor]

SiteRule = Callable[[Site], Tensor]
"""Site to a factor [K] or [rows, K]: block weights, layer-wise choices."""

Router = Callable[[Site, Tensor], Tensor]
"""Site and the layer's input [rows, n, d] to a factor [rows | 1, 1 | n, K] (adapters) or [..., R]
(ranks).
"""


class Combiner(Protocol):
    """Replaces the weighted sum over adapters at the output of a layer."""

    def __call__(self, site: Site, base: Tensor, deltas: Tensor) -> Tensor:
        """Combine ``base [rows, n, d_out]`` and gated ``deltas [K, rows, n, d_out]`` into ``[rows,
        n, d_out]``.
        """
        ...


@dataclass(frozen=True)
class Gate:
    """How much of each adapter, for `rows` samples of a denoiser call.

    Attributes:
        weight: [rows, K] float32 on the CPU. A column of zeros means that the adapter is skipped,
            not multiplied by 0.
        text: [rows, T, K] over the text tokens; enters text sites and the text part of joint sites.
        image: [rows, K, H, W] over the picture at any resolution, resampled by area to the grid of
            a site; enters image sites and the image part of joint sites. A vector site gets its
            mean.
        queries: [rows, K, H, W] over the picture, by where the image token is that attends; enters
            keys and values of cross-attention, which every image token then sees differently.
        site: factor by site.
        router: factor by site and input, over adapters.
        rank_router: factor by site and input, over single ranks.
        combiner: what to do with the adapters' outputs instead of adding them up.
    """

    weight: Tensor
    text: Tensor | None = None
    image: Tensor | None = None
    queries: Tensor | None = None
    site: SiteRule | None = None
    router: Router | None = None
    rank_router: Router | None = None
    combiner: Combiner | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise ShapeError(f"gate weight {list(self.weight.shape)}; expected [rows, K]")
        rows, adapters = self.weight.shape
        if self.text is not None and (
            self.text.ndim != 3 or self.text.shape[::2] != (rows, adapters)
        ):
            raise ShapeError(
                f"text gate {list(self.text.shape)}; expected [rows={rows}, T, K={adapters}]"
            )
        for name, part in (("image", self.image), ("query", self.queries)):
            if part is not None and (part.ndim != 4 or part.shape[:2] != (rows, adapters)):
                raise ShapeError(
                    f"{name} gate {list(part.shape)}; expected [rows={rows}, K={adapters}, H, W]"
                )
        if self.queries is not None and self.combiner is not None:
            raise ShapeError("a gate over queries has a combiner too; expected one of the two")
        object.__setattr__(self, "weight", self.weight.detach().to("cpu", torch.float32))

    @classmethod
    def all(cls, weights: Sequence[float] | Tensor) -> Gate:
        """Every adapter at its weight [K], one row."""
        return cls(torch.as_tensor(weights, dtype=torch.float32)[None])

    @classmethod
    def one(cls, k: int, count: int, weight: float = 1.0) -> Gate:
        """Adapter `k` of `count` alone, one row."""
        return cls(weight * torch.eye(count)[k][None])

    @classmethod
    def off(cls, count: int) -> Gate:
        """No adapter of `count`, one row."""
        return cls(torch.zeros(1, count))

    @property
    def rows(self) -> int:
        """Length of the row axis."""
        return self.weight.shape[0]

    @property
    def adapters(self) -> int:
        """Length of the K axis."""
        return self.weight.shape[1]

    @cached_property
    def active(self) -> tuple[int, ...]:
        """Adapters with a weight other than zero in any row."""
        return tuple(torch.nonzero((self.weight != 0).any(dim=0)).flatten().tolist())

    def expand(self, rows: int) -> Gate:
        """One row repeated; a gate that has `rows` already stays as it is.

        Raises:
            ShapeError: the gate has another number of rows.
        """
        if self.rows == rows:
            return self
        if self.rows != 1:
            raise ShapeError(
                f"a gate of {self.rows} rows cannot serve {rows}; expected 1 or {rows}"
            )
        return self._rowwise(lambda part: part.expand(rows, *part.shape[1:]))

    def narrow(self, start: int, stop: int) -> Gate:
        """Rows `start` to `stop` (exclusive).

        Routers stay as they are: they see the rows of their call.
        """
        if (start, stop) == (0, self.rows):
            return self
        rule = _narrow_rule(self.site, self.rows, start, stop)
        return replace(self._rowwise(lambda part: part[start:stop]), site=rule)

    def _rowwise(self, change: Callable[[Tensor], Tensor]) -> Gate:
        """The same gate with every part that has a row axis changed."""
        names = ("weight", "text", "image", "queries")
        parts: dict[str, Any] = {n: change(p) for n in names if (p := getattr(self, n)) is not None}
        return replace(self, **parts)

    def __mul__(self, other: Gate) -> Gate:
        """Product of two gates over the same rows and adapters.

        Raises:
            ShapeError: the axes differ, or both gates bring a combiner.
        """
        if self.combiner is not None and other.combiner is not None:
            raise ShapeError(
                "two gates with a combiner each cannot be multiplied; expected at most one"
            )
        return Gate(
            weight=self.weight * other.weight,
            text=times(self.text, other.text),
            image=_times_image(self.image, other.image),
            queries=_times_image(self.queries, other.queries),
            site=_both(self.site, other.site),
            router=_both(self.router, other.router),
            rank_router=_both(self.rank_router, other.rank_router),
            combiner=self.combiner or other.combiner,
        )

    @classmethod
    def stack(cls, gates: Sequence[Gate]) -> Gate:
        """Gates one after another along the row axis; a part that some lack is one for them.

        Raises:
            ShapeError: the gates disagree on K, on the number of text tokens, or on their combiner.
        """
        if len(gates) == 1:
            return gates[0]
        if len({g.adapters for g in gates}) != 1:
            raise ShapeError(
                f"gates over {[g.adapters for g in gates]} adapters cannot be stacked; expected"
                " one K"
            )
        if any(g.combiner != gates[0].combiner for g in gates):
            raise ShapeError(
                "gates with different combiners cannot share a call; expected the same one in"
                " every pass"
            )
        return cls(
            weight=torch.cat([g.weight for g in gates]),
            text=_stack_text(gates),
            image=_stack_image(gates, lambda g: g.image),
            queries=_stack_image(gates, lambda g: g.queries),
            site=_stack_rules(gates),
            router=_stack_routers(gates, lambda g: g.router),
            rank_router=_stack_routers(gates, lambda g: g.rank_router),
            combiner=gates[0].combiner,
        )


def times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The product of two parts, of which an absent one is one."""
    return a if b is None else b if a is None else a * b


def _times_image(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None or a.shape[-2:] == b.shape[-2:]:
        return times(a, b)
    finest = (max(a.shape[-2], b.shape[-2]), max(a.shape[-1], b.shape[-1]))
    up = [functional.interpolate(m.float(), finest, mode="nearest") for m in (a, b)]
    return up[0] * up[1]


def _both(a: Rule | None, b: Rule | None) -> Rule | None:
    if a is None or b is None:
        return a or b
    return lambda *args: a(*args) * b(*args)


def _narrow_rule(rule: SiteRule | None, rows: int, start: int, stop: int) -> SiteRule | None:
    if rule is None:
        return None

    def narrowed(site: Site) -> Tensor:
        factor = rule(site)
        return factor[start:stop] if factor.ndim == 2 and factor.shape[0] == rows else factor

    return narrowed


def _stack_text(gates: Sequence[Gate]) -> Tensor | None:
    some = [g.text for g in gates if g.text is not None]
    if not some:
        return None
    if len({t.shape[1] for t in some}) != 1:
        raise ShapeError(
            f"text gates over {[t.shape[1] for t in some]} tokens cannot be stacked; expected one T"
        )
    like = some[0]
    return torch.cat(
        [
            like.new_ones(g.rows, *like.shape[1:]) if g.text is None else g.text.to(like)
            for g in gates
        ]
    )


def _stack_image(gates: Sequence[Gate], pick: Callable[[Gate], Tensor | None]) -> Tensor | None:
    parts = [pick(g) for g in gates]
    some = [part for part in parts if part is not None]
    if not some:
        return None
    finest = (max(m.shape[-2] for m in some), max(m.shape[-1] for m in some))
    like = some[0]
    full = [
        like.new_ones(g.rows, g.adapters, *finest)
        if part is None
        else functional.interpolate(part.to(like), finest, mode="nearest")
        for g, part in zip(gates, parts, strict=True)
    ]
    return torch.cat(full)


def _stack_rules(gates: Sequence[Gate]) -> SiteRule | None:
    if all(g.site is None for g in gates):
        return None

    def stacked(site: Site) -> Tensor:
        parts = []
        for g in gates:
            factor = torch.ones(g.adapters) if g.site is None else g.site(site)
            parts.append(factor.expand(g.rows, -1))
        return torch.cat(parts)

    return stacked


def _stack_routers(gates: Sequence[Gate], pick: Callable[[Gate], Router | None]) -> Router | None:
    routers = [pick(g) for g in gates]
    if all(r is None for r in routers):
        return None

    def stacked(site: Site, x: Tensor) -> Tensor:
        parts = [
            r(site, rows) if r is not None else None
            for r, rows in zip(routers, torch.split(x, [g.rows for g in gates]), strict=True)
        ]
        like = next(p for p in parts if p is not None)
        full = [
            (like.new_ones(1, 1, like.shape[-1]) if p is None else p).expand(
                g.rows, like.shape[1], -1
            )
            for p, g in zip(parts, gates, strict=True)
        ]
        return torch.cat(full)

    return stacked
