"""What every measure is given: recognizer, device, folders, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compose.evaluate.generate import Sampling, load_pipeline
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
    """

    recognizer: Recognizer
    device: torch.device
    model: Path
    adapters: Path
    count: int = 256
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def pipeline(self) -> Any:
        """A fresh stock pipeline, no adapter loaded."""
        return load_pipeline(self.model, self.device, self.sampling.scheduler)
