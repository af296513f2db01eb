"""Layers that add several gated adapters to a module they leave untouched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from compose.adapters.adapter import Stacked
from compose.device import compute_dtype
from compose.errors import AdapterMismatchError
from compose.gate import Gate
from compose.kernels.gated_lora import gated_lora, gated_lora_conv2d
from compose.slot import Change, GateSlot
from compose.types import Site


class GatedLoraLayer(nn.Module, ABC):
    """A module plus the adapters that change it: ``y = base(x) + delta(x, gate)``.

    Without a gate in the slot, or when no adapter of this site has a weight, the result is
    ``base(x)`` itself, bit for bit. The base is called and its weights are never looked into, so it
    may be quantised, or offloaded with its weights on the meta device between calls.

    Public attributes that are not its own are the base's, so that code which looks for ``weight``
    or ``in_features`` finds them. Private ones are not passed on: the hooks of accelerate and
    diffusers mark a module by them, and the base's hooks are not this layer's.

    The factors begin on the base's device (the CPU where its weights are on none). They move with
    the component, as its buffers, and follow where a hook takes the base's work by other means.

    Attributes:
        base: the module as it was found.
        site: where it sits.
        slot: where the gate of the running call is found.
    """

    def __init__(self, base: nn.Module, site: Site, stacked: Stacked, slot: GateSlot) -> None:
        super().__init__()
        self.base = base
        self.site = site
        self.slot = slot
        self.ranks = stacked.ranks
        device, dtype = next(base.parameters()).device, compute_dtype(base)
        if device.type == "meta":
            device = torch.device("cpu")
        self.register_buffer("lora_down", stacked.down.to(device, dtype), persistent=False)
        self.register_buffer("lora_up", stacked.up.to(device, dtype), persistent=False)
        self.register_buffer("lora_index", stacked.index.to(device), persistent=False)
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base's output plus what the gate lets through; further arguments go to the base."""
        y: Tensor = self.base(x, *args, **kwargs)
        gate = self.slot.gate
        if gate is None:
            return y
        active = tuple(k for k in gate.active if self.ranks[k])
        if not active:
            return y
        x = x.to(y.device)  # where the base's hooks took it
        self._follow(y.device)
        if x.ndim == 2:  # a vector is one token, so that routers and combiners see the same axes
            return self._changed(x[:, None], y[:, None], gate, active)[:, 0]
        return self._changed(x, y, gate, active)

    def _changed(self, x: Tensor, y: Tensor, gate: Gate, active: tuple[int, ...]) -> Tensor:
        """The base's output `y` with the changes of the active adapters."""
        weights = self.slot.resolve(self.site, x)  # [rows, 1 | n, K]
        if gate.combiner is not None:
            deltas = torch.stack([self._product(x, weights, (k,)) for k in active])
            return gate.combiner(self.site, y, deltas)
        later = tuple(k for k in self.slot.held_back(self.site) if k in active)
        now = tuple(k for k in active if k not in later)
        if now:
            y = y + self._product(x, weights, now).to(y.dtype)
        if later:
            self.slot.hold_back(self.site, self._change(x, y, weights, later))
        return y

    def _follow(self, device: torch.device) -> None:
        """Bring the factors to the device where the base works; they stay there."""
        if self.lora_down.device != device:
            for name in ("lora_down", "lora_up", "lora_index"):
                setattr(self, name, getattr(self, name).to(device))

    def _change(self, x: Tensor, y: Tensor, weights: Tensor, active: tuple[int, ...]) -> Change:
        """What the active adapters would add to `y`, not yet multiplied by the second factors."""
        down, up, weights, index = self._factors(x, weights, active)
        wide = torch.promote_types(x.dtype, torch.float32)
        low = (x.to(wide) @ down.to(wide).T) * weights.to(wide)[..., index]
        picked = self._ranks_of(active)
        return Change(y, low, up, self.lora_index if picked is None else self.lora_index[picked])

    def _product(self, x: Tensor, weights: Tensor, active: tuple[int, ...]) -> Tensor:
        """Run the kernel over the ranks of the active adapters."""
        return self._kernel(x, *self._factors(x, weights, active))

    def _factors(
        self, x: Tensor, weights: Tensor, active: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Factors, weights and index of the active adapters' ranks alone: 0 x inf would be NaN."""
        down, up, index = self.lora_down, self.lora_up, self.lora_index
        gate = self.slot.gate
        router = gate.rank_router if gate is not None else None
        if router is not None:  # every rank its own gate
            weights = weights[..., index] * router(self.site, x)
            index = torch.arange(len(index), device=index.device)
        picked = self._ranks_of(active)
        if picked is not None:
            down, up, index = down[picked], up[:, picked], index[picked]
        return down, up, weights, index

    def _ranks_of(self, active: tuple[int, ...]) -> Tensor | slice | None:
        """Which ranks belong to the active adapters; None for all of them."""
        present = tuple(k for k, r in enumerate(self.ranks) if r)
        if active == present:
            return None
        first, last = active[0], active[-1]
        if active == tuple(k for k in present if first <= k <= last):  # neighbours: a view, no copy
            start = sum(self.ranks[:first])
            return slice(start, start + sum(self.ranks[first : last + 1]))
        return torch.isin(
            self.lora_index, torch.tensor(active, device=self.lora_index.device)
        ).nonzero()[:, 0]

    @abstractmethod
    def _kernel(
        self, x: Tensor, down: Tensor, up: Tensor, weights: Tensor, index: Tensor
    ) -> Tensor:
        """The gated product of the given ranks, [R, ...] factors and [R] index."""


class GatedLoraLinear(GatedLoraLayer):
    """A linear layer with adapters.

    Input [rows, n, d_in], or [rows, d_in] at a site without tokens.
    """

    def _kernel(
        self, x: Tensor, down: Tensor, up: Tensor, weights: Tensor, index: Tensor
    ) -> Tensor:
        return gated_lora(x, down, up, weights, index)


class GatedLoraConv2d(GatedLoraLayer):
    """A convolution with adapters whose first factor is a convolution like it and whose second is
    1x1.

    Raises:
        AdapterMismatchError: a grouped convolution, or padding other than with zeros.
    """

    def __init__(self, base: nn.Conv2d, site: Site, stacked: Stacked, slot: GateSlot) -> None:
        if base.groups != 1 or base.padding_mode != "zeros":
            raise AdapterMismatchError(
                f"{site.name} is a convolution with {base.groups} groups and {base.padding_mode}"
                " padding;"
                " adapters are supported on ungrouped, zero-padded convolutions"
            )
        super().__init__(base, site, stacked, slot)

    def _kernel(
        self, x: Tensor, down: Tensor, up: Tensor, weights: Tensor, index: Tensor
    ) -> Tensor:
        base: Any = self.base
        return gated_lora_conv2d(
            x,
            down,
            up,
            weights,
            index,
            stride=base.stride,
            padding=base.padding,
            dilation=base.dilation,
        )
