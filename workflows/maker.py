"""Makes the pictures of a job with a model, which stays loaded from one job to the next."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from compose.models.options import LoadOptions
from compose.request import Request
from compose_app.beside import Beside
from compose_app.order import Setting
from compose_app.studio import Studio

from .plan import Job
from .runner import Picture, Pictures


@dataclass(frozen=True)
class StudioMaker:
    """Makes what one worker works with; can be sent to other processes.

    Attributes:
        device, dtype, options: as for `Composer.load`.
        offline: hub models come from the cache only.
        visible: ids of the GPUs that workers share out, as in $CUDA_VISIBLE_DEVICES; empty where
            there is nothing to share.
    """

    device: str
    dtype: str
    options: LoadOptions
    offline: bool = False
    visible: tuple[str, ...] = ()

    def __call__(self, number: int) -> Callable[[Job], Pictures]:
        """The worker of one place."""
        if self.visible:  # before CUDA starts in this process
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible[number % len(self.visible)]
        return _Worker(self).make

    def open(self, model: str) -> Studio:
        """Load a model."""
        return Studio.open(Setting(model, self.device, self.dtype, self.offline, self.options))


class _Worker:
    """Holds the model of its latest job."""

    def __init__(self, maker: StudioMaker) -> None:
        self._maker = maker
        self._studio: Studio | None = None

    def make(self, job: Job) -> Pictures:
        """The pictures of a job, which are made in the same denoiser calls."""
        start = time.perf_counter()
        studio = self._open(job.model)
        requests = [Request.from_json(item.request) for item in job.items]
        prepared = [studio.composer.prepare(request) for request in requests]
        made = studio.together(prepared, lambda done, total: None)
        alone = len(made) == 1
        beside = [
            None if alone else Beside.of([one.request for one in made], index)
            for index in range(len(made))
        ]
        sealed = [studio.sealed(*pair)[0] for pair in zip(made, beside, strict=True)]
        seconds = (time.perf_counter() - start) / len(made)
        pairs = zip(sealed, prepared, strict=True)
        return tuple(Picture(data, seconds, one.warnings) for data, one in pairs)

    def _open(self, model: str) -> Studio:
        if self._studio is None or self._studio.setting.model != model:
            self._studio = None  # room for the next one
            self._studio = self._maker.open(model)
        return self._studio
