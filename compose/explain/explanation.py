"""What an explained run tells of its adapters, and the figures made of it.

Maps lie on the grid [H, W] of the latents, in float32 on the CPU, if nothing else is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compose.run import Calls

Origin = Literal["drawn", "automatic"]


@dataclass(frozen=True)
class Bleed:
    """How much of an adapter's effect fell outside its own region.

    Attributes:
        outside: share of the effect, in [0, 1].
        even: what that share would be for an effect spread evenly over the picture: the area that
            is outside.
    """

    outside: float
    even: float


@dataclass(frozen=True)
class Explained:
    """What one adapter did to a picture.

    Attributes:
        name: of the adapter.
        effect: [H, W] how much the guided prediction changes when the adapter is taken out, as the
            root of the sum of squares over channels, beside the mean size of the prediction. The
            mean over the steps of the run, where steps in which it does not act count as zero.
        acted: in how many steps it acts.
        looked: indices of those of them in which it was taken out.
        words: of the prompt that call it; empty when nothing there does.
        attention: [h, w] on the finest grid that attends to text: which share of a place's
            attention to the text went to these words; None without words.
        mask: [H, W] how much of the adapter the method lets act at each place, by the last step
            that had a mask for it; None when there was none.
        region: [H, W] in [0, 1], where it belongs; None for everywhere.
        origin: where the region comes from: drawn in the request, or the method's own mask.
        text_kept: whether its text-encoder part could not be taken out, so that `effect` is
            without it.
    """

    name: str
    effect: Tensor
    acted: int
    looked: tuple[int, ...]
    words: str = ""
    attention: Tensor | None = None
    mask: Tensor | None = None
    region: Tensor | None = None
    origin: Origin | None = None
    text_kept: bool = False

    @property
    def strength(self) -> float:
        """Mean of the effect over the picture."""
        return float(self.effect.mean())

    @property
    def bleed(self) -> Bleed | None:
        """How much of the effect fell outside the region; None without a region or an effect."""
        if self.region is None or not self.effect.any():
            return None
        outside = 1 - self.region.double()
        mass = self.effect.double()
        return Bleed(float((mass * outside).sum() / mass.sum()), float(outside.mean()))


@dataclass(frozen=True)
class Explanation:
    """What the adapters of a request did to one picture.

    Attributes:
        adapters: [K] in the order of the request.
        steps: of the run.
        calls: what explaining cost; it is counted in the picture's own calls too.
    """

    adapters: tuple[Explained, ...]
    steps: int
    calls: Calls

    @property
    def shares(self) -> tuple[float, ...]:
        """Share [K] of each adapter in the sum of all effects; zeros when nothing had any."""
        masses = torch.stack([a.effect.double().sum() for a in self.adapters])
        total = masses.sum()
        return tuple((masses / total).tolist() if total else [0.0] * len(masses))

    @property
    def share_maps(self) -> Tensor:
        """The same at every place, [K, H, W]; zeros where nothing had an effect."""
        effects = torch.stack([a.effect for a in self.adapters])
        total = effects.sum(dim=0)
        return torch.where(total > 0, effects / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
