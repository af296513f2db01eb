"""Which masks a method works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compose.passes import Pass
from compose.slot import resample

if TYPE_CHECKING:
    from compose.run import Run


def masks(run: Run, passes: Sequence[Pass]) -> Mapping[int, Tensor]:
    """How much of each adapter acts at each place, as far as a step tells.

    A method whose state has `masks` [images, K, H, W] is believed; otherwise it is the image part
    of the gate in the first pass in which an adapter acts. In a product every part is asked.

    Returns:
        Adapter to its mask [images, H, W] on the grid of the latents.
    """
    count, grid = len(run.adapters), tuple(run.regions.shape[-2:])
    own = _own(run.state, (run.images, count))
    if own is not None:
        found = dict(enumerate(own.unbind(dim=1)))
    else:
        found = {k: m for k in range(count) if (m := _gated(run, passes, k)) is not None}
    return {k: resample(m.float().cpu(), (grid[0], grid[1])) for k, m in found.items()}


def _own(state: Any, axes: tuple[int, int]) -> Tensor | None:
    """`masks` of a method's state, or of that of a part of a product."""
    for part in state if isinstance(state, list) else [state]:
        found = getattr(part, "masks", None)
        if isinstance(found, Tensor) and found.ndim == 4 and found.shape[:2] == axes:
            return found
    return None


def _gated(run: Run, passes: Sequence[Pass], k: int) -> Tensor | None:
    """The image part of a gate for adapter `k`; one that is the same everywhere by its form is
    no mask.
    """
    for p in passes:
        image = p.gate.image
        if k in p.gate.active and image is not None and image.shape[-2:] != (1, 1):
            return image.expand(run.images, *image.shape[1:])[:, k]
    return None
