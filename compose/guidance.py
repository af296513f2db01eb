"""Ways to turn an unconditional and a conditional prediction into one. Pure functions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sides(NamedTuple):
    """What guidance works on, [images, C, H, W] each.

    Attributes:
        cond: prediction for the prompt.
        uncond: prediction for the negative prompt; None without guidance.
    """

    cond: Tensor
    uncond: Tensor | None = None


def cfg(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): ``uncond + scale * (cond - uncond)``.

    Args:
        uncond: [images, C, H, W] prediction for the negative prompt.
        cond: [images, C, H, W] prediction for the prompt.
        scale: guidance scale; 1 gives `cond`.
    """
    return uncond + scale * (cond - uncond)
