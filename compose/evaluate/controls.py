"""Adapters that should not work: what any claim about composition has to beat.

"The Appeal and Reality of Recycling LoRAs" (arXiv 2602.12323) finds that merging random adapters of
the right size does about as well as merging real ones. So every evaluation runs two kinds of false
adapters, which match the true ones in size and lack what they have learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from compose.adapters.adapter import Adapter, AdapterSet, Factors


def random_adapters(adapters: AdapterSet, seed: int) -> AdapterSet:
    """Every adapter with random singular vectors at every site.

    Rank, Frobenius norm and the whole singular spectrum of every site stay the same.

    Args:
        adapters: the true ones.
        seed: of the draw, beside the adapter's name.
    """
    return AdapterSet(tuple(_randomised(adapter, seed) for adapter in adapters))


def shuffled_adapters(adapters: AdapterSet, seed: int) -> AdapterSet:
    """Every adapter's own changes dealt out anew among its sites of the same shape.

    No change stays where it was, unless it is the only one of its shape.

    Args:
        adapters: the true ones.
        seed: of the draw, beside the adapter's name.
    """
    return AdapterSet(tuple(_shuffled(adapter, seed) for adapter in adapters))


def spectrum(factors: Factors) -> Tensor:
    """Singular values of the change at a site, falling, float64 [min(r, d_out, d_in)].

    By QR of both factors and an SVD of their small core: the dense change is never made.
    """
    _, up = torch.linalg.qr(factors.up.double())
    _, down = torch.linalg.qr(factors.down.double().flatten(1).T)
    values: Tensor = torch.linalg.svdvals(up @ down.T)
    return values


def _randomised(adapter: Adapter, seed: int) -> Adapter:
    source = _generator("random", adapter.name, seed)
    return replace(adapter, factors={s: _like(f, source) for s, f in adapter.factors.items()})


def _like(factors: Factors, source: torch.Generator) -> Factors:
    """Random factors of the same shapes and spectrum."""
    down, up = factors.down, factors.up
    values = spectrum(factors)
    root = values.sqrt()
    left = _orthonormal(up.shape[0], len(values), source)
    right = _orthonormal(down[0].numel(), len(values), source)
    new_up, new_down = torch.zeros(up.shape), torch.zeros(down.flatten(1).shape)
    new_up[:, : len(values)] = (left * root).to(new_up)
    new_down[: len(values)] = (right * root).T.to(new_down)
    return Factors(new_down.reshape(down.shape).to(down), new_up.to(up))


def _orthonormal(rows: int, columns: int, source: torch.Generator) -> Tensor:
    """Evenly distributed orthonormal columns, float64 [rows, columns] (Mezzadri, 2007,
    arXiv math-ph/0609050: the signs of R make QR unique)."""
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=source, dtype=torch.float64))
    columns_of: Tensor = q * r.diagonal().sign()
    return columns_of


def _shuffled(adapter: Adapter, seed: int) -> Adapter:
    source = _generator("shuffled", adapter.name, seed)
    moved = dict(adapter.factors)
    for sites in _alike(adapter.factors):
        order = torch.randperm(len(sites), generator=source).tolist()
        for here, there in zip(order, [*order[1:], *order[:1]], strict=True):  # one cycle
            moved[sites[here]] = adapter.factors[sites[there]]
    return replace(adapter, factors=moved)


def _alike(factors: Mapping[str, Factors]) -> Iterable[list[str]]:
    """Sites of one component whose changes have the same shape."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for site, one in factors.items():
        shape = (site.partition(".")[0], one.up.shape[0], *one.down.shape[1:])
        groups.setdefault(shape, []).append(site)
    return groups.values()


def _generator(what: str, name: str, seed: int) -> torch.Generator:
    """A source of its own for every adapter, the same on every machine."""
    digest = hashlib.sha256(f"{what} {name} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
