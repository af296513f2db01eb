"""From requests to the run that answers them."""

from __future__ import annotations

from collections.abc import Sequence

from compose.adapters.adapter import AdapterSet
from compose.models.family import Family
from compose.regions import drawn
from compose.request import Request
from compose.run import Run
from compose.slot import GateSlot


def begun(
    requests: Sequence[Request],
    adapters: AdapterSet,
    family: Family,
    slots: dict[str, GateSlot],
    row_budget: int | None,
) -> Run:
    """A run before its first step, an image for every request.

    Args:
        requests: which differ in prompt, negative prompt and seed only.
        adapters: those of the requests.
        family, slots, row_budget: as of `Run`.
    """
    request = requests[0]
    regions = [use.region for use in request.adapters]
    size = request.size or family.default_size
    guidance = family.guidance if request.guidance is None else request.guidance
    distilled = family.distilled
    return Run(
        family=family,
        adapters=adapters,
        weights=tuple(a.weight for a in request.adapters),
        text_weights=tuple(a.text_strength for a in request.adapters),
        prompts=tuple(one.prompt for one in requests),
        negatives=tuple(one.negative for one in requests),
        guidance=request.true_cfg or 1.0 if distilled else guidance,
        distilled_guidance=guidance if distilled else None,
        clip_skip=request.clip_skip,
        regions=drawn(regions, family.grid(size)),
        placed=tuple(region is not None for region in regions),
        schedule=family.schedule(request.steps, request.scheduler, request.size),
        slots=slots,
        row_budget=row_budget,
    )
