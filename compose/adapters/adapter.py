"""One adapter, and an ordered set of them ready for a gated layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from compose.errors import ShapeError


@dataclass(frozen=True)
class Factors:
    """Low-rank change of one module: ``delta(x) = up @ (down @ x)``; alpha / rank is folded into
    `up`.

    Attributes:
        down: [r, d_in] for a linear, [r, c_in, kh, kw] for a convolution.
        up: [d_out, r]; a convolution's second factor is always 1x1 and stored without its two unit
            axes.
    """

    down: Tensor
    up: Tensor

    def __post_init__(self) -> None:
        if (
            self.up.ndim != 2
            or self.down.ndim not in (2, 4)
            or self.up.shape[1] != self.down.shape[0]
        ):
            raise ShapeError(
                f"factors with down {list(self.down.shape)} and up {list(self.up.shape)} do not"
                " chain; expected"
                " down [r, d_in] or [r, c_in, kh, kw] and up [d_out, r] with the same r"
            )

    @property
    def rank(self) -> int:
        """Length of the inner axis."""
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """The dense change: [d_out, d_in] or [c_out, c_in, kh, kw]."""
        return (self.up @ self.down.flatten(1)).reshape(self.up.shape[0], *self.down.shape[1:])


@dataclass(frozen=True)
class Adapter:
    """One LoRA, free of its file's layout and of any model.

    Attributes:
        name: how prompts, gates and reports call it.
        factors: site name (``component.path``) to factors.
        triggers: words that call what it has learned.
        category: character, clothing, style, background, object or other.
        source: file it came from.
        class_word: ordinary word for what it shows, such as "cat"; empty when the file names none.
    """

    name: str
    factors: Mapping[str, Factors]
    triggers: tuple[str, ...] = ()
    category: str = "other"
    source: Path | None = None
    class_word: str = ""

    @property
    def rank(self) -> int:
        """Largest rank over all sites; 0 for an adapter without sites."""
        return max((f.rank for f in self.factors.values()), default=0)


@dataclass(frozen=True)
class Stacked:
    """The factors of all adapters at one site, ranks laid end to end.

    Attributes:
        down: [R, d_in] or [R, c_in, kh, kw].
        up: [d_out, R].
        index: [R] which adapter each rank belongs to.
        ranks: r_k for every adapter; 0 where an adapter leaves the site alone.
    """

    down: Tensor
    up: Tensor
    index: Tensor
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class AdapterSet:
    """Adapters in the order of the K axis. The sum over adapters runs in this order."""

    adapters: tuple[Adapter, ...] = ()
    sites: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [a.name for a in self.adapters]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ShapeError(
                f"adapter {', '.join(twice)} is in the set more than once; expected every adapter"
                " once,"
                " so add the weights up instead"
            )
        ordered = dict.fromkeys(site for a in self.adapters for site in a.factors)
        object.__setattr__(self, "sites", tuple(ordered))

    def __len__(self) -> int:
        return len(self.adapters)

    def __iter__(self) -> Iterator[Adapter]:
        return iter(self.adapters)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the K axis."""
        return tuple(a.name for a in self.adapters)

    def index(self, name: str) -> int:
        """Position of an adapter on the K axis."""
        return self.names.index(name)

    def stacked(self, site: str) -> Stacked:
        """Lay the factors of one site end to end.

        Raises:
            ShapeError: no adapter changes the site, or two adapters disagree on its shape.
        """
        found = [(k, a.factors[site]) for k, a in enumerate(self.adapters) if site in a.factors]
        if not found:
            raise ShapeError(
                f"no adapter of {', '.join(self.names) or 'an empty set'} changes {site}"
            )
        shapes = {(tuple(f.down.shape[1:]), f.up.shape[0]) for _, f in found}
        if len(shapes) > 1:
            owners = ", ".join(f"{self.names[k]}: {list(f.delta().shape)}" for k, f in found)
            raise ShapeError(
                f"adapters disagree on the shape of {site} ({owners}); they were made for"
                " different models"
            )
        ranks: Sequence[int] = [
            a.factors[site].rank if site in a.factors else 0 for a in self.adapters
        ]
        index = torch.repeat_interleave(torch.arange(len(self.adapters)), torch.tensor(ranks))
        return Stacked(
            down=torch.cat([f.down for _, f in found]),
            up=torch.cat([f.up for _, f in found], dim=1),
            index=index,
            ranks=tuple(ranks),
        )
