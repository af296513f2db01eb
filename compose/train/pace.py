"""When a training goes on, when it saves, and when it ends: one answer for all its processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from compose.train.common import Clock
from compose.train.ranks import Ranks

SAVE_EVERY = 120.0  # seconds
ASK_EVERY = 10  # steps between two looks at the clock, which cost a broadcast


class Trainable(Protocol):
    """What has a clock and can be saved; `options.max_steps` limits one call, for tests."""

    ranks: Ranks
    clock: Clock
    options: Any
    step: int

    def save(self) -> None:
        """Write the checkpoint."""
        ...


class Pace:
    """Iterate over the progress, in [0, 1), of every step that is still to be made.

    The clock of the training starts when this is made.

    Attributes:
        finished: after the iteration: the whole budget is used up, not only the time of this call.
    """

    def __init__(self, training: Trainable) -> None:
        self.training = training
        self.finished = False
        training.clock.start()

    def __iter__(self) -> Iterator[float]:
        training, ranks, clock = self.training, self.training.ranks, self.training.clock
        limit = training.options.max_steps
        first, saved, progress = training.step, clock.elapsed, 0.0
        while True:
            made = training.step - first
            if limit is not None or made % ASK_EVERY == 0:
                progress, late = ranks.agree(clock.progress, float(clock.late))
                self.finished = progress >= 1
                if self.finished or late or (limit is not None and made >= limit):
                    return
                if ranks.main and clock.elapsed - saved > SAVE_EVERY:
                    training.save()
                    saved = clock.elapsed
            yield progress
