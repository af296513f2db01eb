"""Where a batch is made: in this process, in one process a device, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from compose.device import pick_device
from compose.pools import Inline, Pool, Processes

from .maker import StudioMaker
from .plan import Job
from .runner import Pictures
from .spec import Batch

EXECUTORS = ("inline", "processes", "ray")
_MOST_CORES = 8  # unless more are asked for; each worker holds a model of its own


def open_pool(
    executor: str, batch: Batch, *, workers: int | None, address: str | None, offline: bool
) -> Pool[Job, Pictures]:
    """A pool for a batch, not yet entered. All give the same pictures.

    Args:
        executor: one of `EXECUTORS`.
        batch: for its device, dtype and options.
        workers: how many; None for one a GPU, or one a core on a CPU (at most 8 on one machine).
        address: of a Ray cluster.
        offline: hub models come from the cache only.

    Raises:
        MissingExtraError: ray is not installed.
        RequestError: the device is not there.
    """
    plain: dict[str, Any] = {"dtype": batch.dtype, "options": batch.options, "offline": offline}
    if executor == "ray":
        from .on_ray import OnRay

        gpus = 0 if batch.device == "cpu" or not torch.cuda.is_available() else 1
        gpus = 1 if batch.device == "cuda" else gpus
        return OnRay(StudioMaker(batch.device, **plain), workers, address, gpus)
    device = pick_device(batch.device).type
    if executor == "inline":
        return Inline(StudioMaker(device, **plain))
    visible = visible_gpus(os.environ) if device == "cuda" else ()
    count = workers or len(visible) or min(_cores(), _MOST_CORES)
    return Processes(StudioMaker(device, visible=visible, **plain), count)


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Ids of the GPUs that this process may use, as $CUDA_VISIBLE_DEVICES spells them."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip())
    return tuple(str(number) for number in range(torch.cuda.device_count()))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
