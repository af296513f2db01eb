"""Where a pipeline stands: which step a denoiser call belongs to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compose.errors import RequestError
from compose.models.family import Schedule
from compose.types import Step


class Clock:
    """Tells the steps of one run from the denoiser calls of a pipeline.

    Pipelines say nowhere which step it is, and one timestep may stand for several steps (Heun's and
    PNDM's lists repeat some). So calls are counted, and each one's timestep is compared with the
    list's.

    Args:
        pipe: a pipeline that calls its denoiser once a step, at the first call of a run.
        timestep: of that call, as of `step`.

    Attributes:
        schedule: the scheduler, and the timesteps that the pipeline visits: the last ones of its
            list in a run that starts from a picture, the first ones in a run that another model is
            to finish.
    """

    def __init__(self, pipe: Any, timestep: Any) -> None:
        self._pipe = pipe
        self._list: Tensor = pipe.scheduler.timesteps
        self._next = 0
        first = max(len(self._list) - pipe.num_timesteps, 0)
        if not _is(timestep, self._list[first]):
            first = 0
        visited = self._list[first : first + pipe.num_timesteps]
        self.schedule = Schedule(pipe.scheduler, visited, first)

    @property
    def over(self) -> bool:
        """Whether another run has begun: every run gives the scheduler a list of its own."""
        return self._pipe.scheduler.timesteps is not self._list

    def step(self, timestep: Any) -> Step:
        """The step of the next call.

        Args:
            timestep: what the denoiser was given: a number, or a tensor [] or [rows].

        Raises:
            RequestError: the call does not follow the scheduler's list.
        """
        index, total = self._next, len(self.schedule.timesteps)
        if index >= total or not _is(timestep, self.schedule.timesteps[index]):
            raise RequestError(
                f"the denoiser was called at timestep {timestep} where step {index} of {total} was"
                " due; expected one call a step, in the order of pipe.scheduler.timesteps"
            )
        self._next += 1
        return self.schedule.step(index)


def _is(timestep: Any, expected: Tensor) -> bool:
    """Whether every row of a call is at a timestep."""
    given = torch.as_tensor(timestep).cpu().double()
    return bool((given == expected.cpu().double()).all())
