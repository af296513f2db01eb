"""The steps of one run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compose.types import Step


@dataclass(frozen=True)
class Schedule:
    """A scheduler of its own for one run: schedulers carry state, so none is ever shared.

    Attributes:
        scheduler: diffusers scheduler with its timesteps set.
        timesteps: [total] those of the run.
        first: position of the run's first timestep among the scheduler's; above 0 for a run that
            starts from a picture.
    """

    scheduler: Any
    timesteps: Tensor
    first: int = 0

    def step(self, index: int) -> Step:
        """Where the run stands at a position of the list."""
        t = self.timesteps[index]
        sigmas = getattr(self.scheduler, "sigmas", None)
        sigma = (
            float(sigmas[self.first + index])
            if sigmas is not None
            else float(t) / self.scheduler.config.num_train_timesteps
        )
        return Step(index, len(self.timesteps), t, sigma)

    def scale(self, latents: Tensor, step: Step) -> Tensor:
        """Latents as the denoiser wants them at a step; flow matching takes them as they are."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return latents
        scaled: Tensor = self.scheduler.scale_model_input(latents, step.t)
        return scaled

    def advance(
        self, prediction: Tensor, step: Step, latents: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """One solver step: latents [images, C, H, W] to the next."""
        out: Tensor = self.scheduler.step(
            prediction, step.t, latents, **self._extra(generators), return_dict=False
        )[0]
        return out

    def _extra(self, generators: Sequence[torch.Generator]) -> dict[str, Any]:
        accepted = inspect.signature(self.scheduler.step).parameters
        return {"generator": list(generators)} if "generator" in accepted else {}
