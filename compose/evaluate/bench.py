"""What every measure is given: recognizer, device, folders, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compose.errors import ConceptError, nearest
from compose.evaluate.generate import Sampling, load_pipeline
from compose.world.concepts import Concept, shipped
from compose.world.recognizer import Recognizer


@dataclass(frozen=True)
class Bench:
    """The set-up of a measurement.

    Attributes:
        recognizer: reads the pictures.
        device: where everything runs.
        model: folder of the base pipeline.
        adapters: folder of the adapters.
        count: pictures a row of figures.
        seed: of the noise.
        sampling: how pictures are made.
        only: names of the concepts to measure; empty for all of them.
    """

    recognizer: Recognizer
    device: torch.device
    model: Path
    adapters: Path
    count: int = 256
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    only: tuple[str, ...] = ()

    def concepts(self) -> list[Concept]:
        """The shipped concepts that are to be measured.

        Raises:
            ConceptError: a name that no shipped concept has.
        """
        known = {concept.name: concept for concept in shipped()}
        for name in self.only:
            if name not in known:
                raise ConceptError(f"no concept {name!r} is shipped; {nearest(name, known)}")
        return [c for c in known.values() if not self.only or c.name in self.only]

    def pipeline(self) -> Any:
        """A fresh stock pipeline, no adapter loaded."""
        return load_pipeline(self.model, self.device, self.sampling.scheduler)
