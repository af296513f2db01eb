"""LoRA-Composer: every region has its adapter and words, and attention is made to keep to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from compose.attention import image_layers, text_layers
from compose.attention.losses import missing, straying, unfilled
from compose.attention.maps import smoothed
from compose.errors import RequestError
from compose.fusion.region_maps import Listening, cells, listening
from compose.fusion.region_texts import RegionTexts, Scene
from compose.method import param
from compose.regions.restart import restarted
from compose.run import Run
from compose.types import Step


@dataclass(frozen=True)
class Course(Scene):
    """A scene on its way.

    Attributes:
        loss: [images] of the step before.
        going: [images] whether latents are still moved.
    """

    loss: Tensor
    going: Tensor


@dataclass(frozen=True, kw_only=True)
class LoraComposer(RegionTexts):
    """In cross-attention each region listens to the words of its adapter, under that adapter;
    regions do not see each other; and latents are moved so that every concept fills its box.

    Yang et al. 2024 and the released code (Young98CN/LoRA_Composer). What is said in a region is
    the adapter's trigger and class word, or the words that are bound to it. Adapters without a
    region act everywhere. Before the first step each region takes over the noise that its words
    like best; over the first steps latents follow the gradient of three losses: the words'
    attention in the box (`enhance`), from edge to edge (`fill`), and the box's own attention that
    strays outside (`restrict`). Losses see the rectangle around a mask.

    Against the code: words may be of several tokens, small boxes keep a cell of every grid, a place
    in two regions still sees itself, every image of a batch has its own losses and its own end, and
    moves are the same whatever the solver. Cost: a plain step's rows, joined in cross-attention by
    one for each region; at most `until` + 2 calls more, and `until` + 1 gradients.
    """

    name: ClassVar[str] = "lora_composer"
    title: ClassVar[str] = "LoRA-Composer"
    source: ClassVar[str] = "https://arxiv.org/abs/2403.11627"
    needs: ClassVar[frozenset[str]] = RegionTexts.needs | {"capture", "grad"}

    restart: bool = param(True, "regions begin with the noise that their words like best")
    level: int = param(2, "how often the grid of the maps is halved", low=0, high=5)
    rate: float = param(20.0, "length of a move of the latents; 0 for none", low=0.0, high=1000.0)
    decay: float = param(0.5, "square of the last move's length by the first's", low=0.0, high=1.0)
    until: int = param(25, "last step, from 0, before which latents move", low=0, high=999)
    patience: int = param(5, "first step at which a loss that rose is the end", low=0, high=999)
    enhance: float = param(8.0, "weight of the attention to words in the box", low=0.0, high=100.0)
    fill: float = param(2.0, "weight of reaching every row and column", low=0.0, high=100.0)
    restrict: float = param(10.0, "weight of the attention that strays", low=0.0, high=100.0)
    top: float = param(0.2, "share of a box's cells that losses look at", low=0.01, high=1.0)
    spread: float = param(1.0, "how far the middle of a box counts most", low=0.1, high=10.0)
    blur: float = param(0.5, "deviation of the blur of maps, in cells", low=0.1, high=3.0)

    def check(self, run: Run) -> None:
        """Refuse also a level at which the model has no attention to look at."""
        super().check(run)
        sites = run.family.attention_layers()
        if all(any(map(rule(self.level), sites)) for rule in (text_layers, image_layers)):
            return
        levels = sorted({s.level for s in sites if s.keys == "text" and s.level is not None})
        raise RequestError(
            f"level={self.level} was given, where this model has no attention to text and image;"
            f" expected one of {', '.join(map(str, levels))}"
        )

    def prepare(self, run: Run) -> Course:
        """What is said where, before any move."""
        going = torch.ones(run.images, dtype=torch.bool)
        scene = vars(super().prepare(run))
        return Course(**scene, loss=torch.full(going.shape, torch.inf), going=going)

    def adjust(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        """Noise put in its place before the first step, and a move along the losses' gradient."""
        if not run.state.concepts:
            return latents
        if self.restart and step.index == 0:
            words = self._listening(run, step, latents).words
            places = cells(run.state.concepts, latents)
            latents = restarted(latents, [m.sum(dim=1) for m in words], places)
        if self.rate and run.state.going.any():
            latents = self._moved(run, step, latents)
        return latents

    def losses(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        """What the attention of a step is to be blamed for, [images]."""
        words, inward = self._listening(run, step, latents)
        boxes = cells(run.state.concepts, words[0])
        total = self.restrict * straying(inward, boxes, top=self.top).sum(dim=1)
        for maps, box in zip(words, boxes, strict=True):
            maps, each = smoothed(maps, self.blur), box.expand(maps.shape[1], -1, -1)
            few = missing(maps, each, top=self.top, spread=self.spread)
            total = total + (self.enhance * few + self.fill * unfilled(maps, each)).sum(dim=1)
        return total

    def _moved(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        """Latents after a move against the gradient, in the scale that the denoiser sees."""
        with torch.enable_grad():
            z = latents.detach().to(torch.promote_types(latents.dtype, torch.float32))
            z.requires_grad_()
            losses = self.losses(run, step, z.to(latents.dtype))
            (gradient,) = torch.autograd.grad(losses.sum(), z)
        run.calls.backwards += 1
        share = 1 + (self.decay - 1) * step.index / max(step.total - 1, 1)
        scale = float(run.schedule.scale(torch.ones(()), step))
        length = self.rate * share**0.5 / scale**2
        course: Course = run.state
        going, loss = course.going, losses.detach().cpu()
        moved = z.detach() - length * gradient * going.to(gradient)[:, None, None, None]
        rose = (loss > course.loss) & (step.index >= self.patience)
        going = going & ~rose & (step.index < self.until)
        run.state = replace(course, loss=loss, going=going)
        out: Tensor = moved.to(latents)
        return out

    def _listening(self, run: Run, step: Step, latents: Tensor) -> Listening:
        cond = self.passes(run, step)[-1]
        return listening(run, step, latents, cond, run.state.concepts, self.level)
