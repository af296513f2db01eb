"""Regional: every adapter acts where it belongs in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from compose.attention import Bias, Isolation
from compose.errors import RequestError
from compose.gate import Gate
from compose.method import GatedMethod, param
from compose.regions import OVERLAPS, feathered, shared
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True, kw_only=True)
class Regional(GatedMethod):
    """Each adapter acts in its region of the picture; adapters without one act everywhere.

    As the regional LoRAs of kohya's sd-scripts (`networks/lora.py`) and of FreeFuse (arXiv
    2510.23515): in layers on image tokens, convolutions included, an adapter's change
    is multiplied by its mask on the layer's grid; layers without tokens get the mask's mean. One
    pass, at the cost of a merge.

    What layers on text make of the words serves every place alike, so there an adapter acts only as
    much as it does at every place: in full without a region, and not at all when its region leaves
    anything out. `tara*regional` lets each adapter speak on its own words instead, `text=places` on
    all words, to image tokens in its region (decision 0011). Text encoders come before all this; an
    adapter's part of them acts in full. Attention looks across borders unless `isolate` forbids it.
    """

    name: ClassVar[str] = "regional"
    title: ClassVar[str] = "Regional"
    source: ClassVar[str] = "https://arxiv.org/abs/2510.23515"
    minimum: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"regions"})
    chooses: ClassVar[str] = "place"

    feather: float = param(
        0.0,
        "how soft the edges of regions are: standard deviation of a blur, as a share of the"
        " picture's shorter side",
        low=0.0,
        high=0.5,
    )
    overlap: str = param(
        "average",
        "where regions overlap, average: adapters share in proportion; sum: each acts in full;"
        " first: the order of adapters decides; partition: the strongest mask takes all",
        choices=tuple(OVERLAPS),
    )
    outside: str = param(
        "base",
        "where no region is, base: no adapter that has a region acts; average: all of them share",
        choices=("base", "average"),
    )
    text: str = param(
        "least",
        "in layers on text, least: an adapter acts as much as it does at every place; mean: as much"
        " as on average over the picture; full: as if it had no region; places: as much as where"
        " the image token is that attends",
        choices=("least", "mean", "full", "places"),
    )
    isolate: float = param(
        0.0,
        "for which share of the run, from its beginning, image tokens of one region do not attend"
        " to those of another: 0 never, 1 always",
        low=0.0,
        high=1.0,
    )

    def check(self, run: Run) -> None:
        """Refuse `text=places` where words are seen by other words too, which have no place."""
        super().check(run)
        layers = run.family.attention_layers() if self.text == "places" else ()
        if any(layer.keys == "joint" for layer in layers):
            raise RequestError(
                f"text=places was asked for with a model of family {run.family.name}, where words"
                " see words; expected one with cross-attention, or text=least, mean or full"
            )

    def prepare(self, run: Run) -> Gate:
        """The gate without the weights; it is the same at every step."""
        masks = self.masks(run)
        text = queries = None
        if self.text == "places":
            queries = masks[None]
        elif self.text != "full":
            tokens = run.text([1.0] * len(masks)).cond.embeds.shape[1]
            share = masks.amin((1, 2)) if self.text == "least" else masks.mean((1, 2))
            text = share.expand(1, tokens, -1)
        return Gate(torch.ones(1, len(masks)), text=text, image=masks[None], queries=queries)

    def masks(self, run: Run) -> Tensor:
        """How much of each adapter acts at each place, [K, H, W]."""
        masks = feathered(run.regions, self.feather)
        placed = torch.tensor(run.placed)
        own = shared(masks[placed], self.overlap)
        if self.outside == "average":
            own = own + (1 - own.sum(dim=0)).clamp(min=0) / len(own)
        masks[placed] = own
        return masks

    def gate(self, run: Run, step: Step) -> Gate:
        """Own regions, under the weights."""
        gate: Gate = replace(run.state, weight=torch.tensor([run.weights]))
        return gate

    def biases(self, run: Run, step: Step) -> Sequence[Bias]:
        """Isolation of the regions, as drawn, while it lasts; a full one takes no part in it."""
        regions = run.regions[torch.tensor(run.placed)]
        regions = regions[regions.amin((1, 2)) < 1]
        if step.progress >= self.isolate or len(regions) < 2:
            return ()
        return (Isolation(regions[None]),)
