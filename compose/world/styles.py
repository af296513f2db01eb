"""Styles that change the finished picture. All are smooth in space, so that a small autoencoder
keeps them.

The sticker style is drawn with primitives (white rims, pale backing) by
`compose.world.drawing.table`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compose.world.vocabulary import STYLES

_FILTER = (0.94, 0.83, 0.64)
_GOLD = (1.0, 0.66, 0.16)
_INK_BLUE = (0.05, 0.13, 0.42)
_PAPER_BLUE = (0.93, 0.97, 1.0)


def apply_styles(images: Tensor, styles: Tensor) -> Tensor:
    """Apply each picture's style.

    Args:
        images: [N, 3, H, W] in [0, 1].
        styles: index into `vocabulary.STYLES`, [N], on the CPU.

    Returns:
        [N, 3, H, W] in [0, 1]; plain and sticker pictures unchanged.
    """
    for name, change in (("sunwash", _sunwash), ("blueprint", _blueprint)):
        chosen = (styles == STYLES.index(name)).nonzero().flatten().to(images.device)
        if len(chosen):
            images = images.index_copy(0, chosen, change(images.index_select(0, chosen)))
    return images


def _sunwash(images: Tensor) -> Tensor:
    """Golden light that falls in from above, darker corners; hues stay apart."""
    height, width = images.shape[-2:]
    y = torch.linspace(-1, 1, height, device=images.device).view(-1, 1)
    x = torch.linspace(-1, 1, width, device=images.device)
    filtered = images * images.new_tensor(_FILTER).view(3, 1, 1)
    glow = images.new_tensor(_GOLD).view(3, 1, 1) * (0.3 - 0.28 * y)
    lit = filtered + glow * (1 - 0.55 * filtered)
    return (lit * (1 - 0.5 * ((x * x + y * y) / 2) ** 1.2)).clamp(0, 1)


def _blueprint(images: Tensor) -> Tensor:
    """Luminance as blue ink to white paper."""
    weights = images.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
    level = (images * weights).sum(1, keepdim=True) ** 1.25
    low, high = (
        images.new_tensor(_INK_BLUE).view(3, 1, 1),
        images.new_tensor(_PAPER_BLUE).view(3, 1, 1),
    )
    return low + (high - low) * level
