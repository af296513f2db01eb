"""A run whose loop belongs to a pipeline."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from compose.adapters.adapter import AdapterSet
from compose.attachment.hooks import Arguments
from compose.attachment.inputs import DenoiserCall
from compose.attachment.prompts import Prompts, Texts
from compose.errors import RequestError, ShapeError
from compose.guidance import Sides
from compose.method import CompositionMethod
from compose.models.family import Family
from compose.models.schedule import Schedule
from compose.passes import Guided, Pass, Piece, by_pass, grouped, stacked
from compose.regions import Region, drawn
from compose.run import Calls, Run
from compose.slot import GateSlot
from compose.types import Conditioning, Step

LOOP = "use compose.Composer, which has a loop of its own"


@dataclass(frozen=True)
class PipelineText(Conditioning):
    """The text of one side of a pipeline's batch.

    Attributes:
        first: first row of that side.
    """

    first: int = 0


class AttachedRun(Run):
    """What a composition method may know and do when a pipeline runs the loop.

    Passes are under `guided_passes` or `text`, whose conditioning stands for a side of the
    pipeline's batch. Prompts, negative prompts and the latents are the pipeline's own: a method
    that asks for them is refused.
    """

    def __init__(
        self,
        family: Family,
        adapters: AdapterSet,
        weights: tuple[float, ...],
        text_weights: tuple[float, ...],
        regions: tuple[Region | None, ...],
        slots: dict[str, GateSlot],
        row_budget: int | None,
    ) -> None:
        self.family = family
        self.adapters = adapters
        self.weights, self.text_weights = weights, text_weights
        self.placed = tuple(region is not None for region in regions)
        self._regions = regions
        self.slots, self.row_budget = slots, row_budget
        self.state = None
        self.calls, self.trace = Calls(), []

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there: fields that `__init__` leaves out, or that only a call of
        the pipeline will tell.
        """
        if name in Run.__dataclass_fields__ or hasattr(Run, name):
            self._refuse(f"run.{name}")
        raise AttributeError(f"a run has no attribute {name!r}")

    __repr__ = object.__repr__  # a dataclass would ask for every field

    def _refuse(self, what: str) -> NoReturn:
        raise RequestError(
            f"the method asked for {what}, which it cannot have when it is attached to a pipeline;"
            f" expected a method of gates and passes, so {LOOP}"
        )

    @property
    def images(self) -> int:
        """Images made side by side."""
        return self._asked.rows // (2 if self.guided else 1)

    def encode(
        self, prompts: Sequence[str], weights: Sequence[float], *, negative: bool = False
    ) -> Conditioning:
        """Not here: the pipeline encodes.

        Raises:
            RequestError: always.
        """
        del prompts, weights, negative
        self._refuse("texts of its own")

    def predict(self, latents: Tensor, step: Step, passes: Sequence[Pass]) -> dict[str, Tensor]:
        """Not here: the pipeline calls the denoiser.

        Raises:
            RequestError: always.
        """
        del latents, step, passes
        self._refuse("denoiser calls of its own")

    def text(self, shares: Sequence[float]) -> Guided:
        """What the pipeline's prompts say, with each adapter's text-encoder part at a share [K] of
        its weight.
        """
        texts = self._prompts.under(self.encoder_weights(shares), self._own_texts())
        first = self.images if self.guided else 0
        cond = _side({n: side for n, (side, _) in texts.items()}, first)
        negative = {n: side for n, (_, side) in texts.items() if side is not None}
        return Guided(cond, _side(negative, 0) if negative else None)

    def _own_texts(self) -> Texts:
        """The texts that the pipeline gave, side by side."""
        given = self._asked.texts
        if not self.guided:
            return {n: (t, None) for n, t in given.items()}
        return {n: (t[self.images :], t[: self.images]) for n, t in given.items()}

    def begin(self, schedule: Schedule, prompts: Prompts) -> None:
        """The pipeline has begun a run.

        Args:
            schedule: its scheduler, and the timesteps that it visits.
            prompts: encodes its prompt.
        """
        self.schedule = schedule
        self._prompts = prompts

    def denoise(
        self, call: DenoiserCall, step: Step, method: CompositionMethod, guidance: float
    ) -> Generator[Arguments, Any, Any]:
        """Let a method speak for the denoiser in one call.

        Args:
            call: what the pipeline asks.
            step: where it stands.
            method: of gates and passes.
            guidance: scale that the pipeline guides with; 1 for none, which means that its batch
                has no rows for the negative prompt.

        Yields:
            The inputs of one denoiser call after another.

        Returns:
            What the denoiser would, with the rows that the pipeline expects.
        """
        self._asked, self.guidance = call, guidance
        if step.index == 0:
            height, width = call.latents.shape[-2:]
            self.regions = drawn(self._regions, (height, width))
            self.state = method.prepare(self)
        groups = grouped(method.passes(self, step), self.images, self.row_budget)
        outputs = []
        for group in groups:
            text = stacked(group)
            texts = {call.inputs.main_text: text.embeds, **text.extra}
            inputs = call.at([_span(piece) for piece in group], texts)
            layout = self.family.layout(inputs[call.inputs.latents])
            gate = self._gate(step, group, self.images)
            with self._calling(group, gate, layout, text.embeds.shape[1]):
                outputs.append((yield (), inputs))
        predictions = by_pass(groups, [output[0] for output in outputs])
        fused = self._rows(method.sides(self, step, predictions))
        del self._asked  # its tensors are the pipeline's to keep
        return (fused,) if isinstance(outputs[0], tuple) else type(outputs[0])(fused)

    def _rows(self, sides: Sides) -> Tensor:
        """Both sides as the pipeline will take them apart."""
        if not self.guided:
            return sides.cond
        if sides.uncond is None:
            raise ShapeError(
                "the method gave a prediction for the prompt alone; expected one for the negative"
                " prompt too, since the pipeline guides"
            )
        return torch.cat([sides.uncond, sides.cond])


def _side(texts: Mapping[str, Tensor], first: int) -> PipelineText:
    """One side's texts as conditioning: the first one is the embeddings, the rest comes with it."""
    main, *others = texts
    return PipelineText(texts[main], {n: texts[n] for n in others}, first=first)


def _span(piece: Piece) -> tuple[int, int]:
    """The rows of the pipeline's batch that a piece stands for."""
    text = piece.of.conditioning
    if not isinstance(text, PipelineText):
        raise RequestError(
            f"pass {piece.of.name} has a conditioning of its own; expected one of run.text, since"
            f" the pipeline encodes the prompt, so {LOOP}"
        )
    return text.first + piece.start, text.first + piece.stop
