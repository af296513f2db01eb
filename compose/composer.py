"""The engine: a base model, adapters, and the only denoising loop of the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from compose.adapters.adapter import Adapter, AdapterSet
from compose.adapters.formats import KeyReport, load_adapter
from compose.adapters.library import AdapterLibrary
from compose.device import pick_device
from compose.errors import RequestError
from compose.explain import Explainer, Observer
from compose.layers import Installation, install
from compose.models.detect import EMBEDDED
from compose.models.family import Family
from compose.models.loading import load
from compose.models.options import USUAL, LoadOptions
from compose.needs import check_needs
from compose.request import AdapterUse, Request, check_together
from compose.result import ComposedImage, Prepared, Progress, Result
from compose.run import Run
from compose.slot import GateSlot
from compose.starting import begun
from compose.wording import unheard_warnings, unmatched_warnings, wording_warnings

Each = Callable[[int, int, Tensor], None]
"""Called after every step: steps done, their total, latents [images, C, H, W]."""


class Composer:
    """Makes pictures with several adapters at once. Base weights are read, never written.

    Adapters stay installed between requests that use the same set; `close`, or leaving the context,
    takes them out.

    Args:
        family: the base model.
        library: where adapter names are looked up; None for the default folders.
        row_budget: most rows of one denoiser call; None for no limit.
    """

    def __init__(
        self,
        family: Family,
        library: AdapterLibrary | None = None,
        *,
        row_budget: int | None = None,
    ) -> None:
        if row_budget is not None and row_budget < 1:
            raise RequestError(f"row budget {row_budget} is too small; expected at least 1")
        self.family = family
        self.library = AdapterLibrary.default() if library is None else library
        self.row_budget = row_budget
        self.slots = {name: GateSlot() for name in family.components}
        self._loaded: dict[Path, tuple[Adapter, KeyReport]] = {}
        self._installation: Installation | None = None

    @classmethod
    def load(
        cls,
        model: str = EMBEDDED,
        *,
        device: str = "auto",
        dtype: str = "auto",
        options: LoadOptions = USUAL,
        library: AdapterLibrary | None = None,
        row_budget: int | None = None,
    ) -> Self:
        """Load a base model.

        Args:
            model: "embedded", a folder in diffusers layout, or a .safetensors file with a whole
                model in its original layout.
            device: "auto", "cpu" or "cuda".
            dtype: "auto" (fp32 on a CPU, on a GPU what suits the family), "fp32", "bf16", "fp16".
            options: where parts of the model come from, and what is done to fit it into memory.
            library, row_budget: as for `Composer`.

        Raises:
            ModelError: the model is missing, broken or of an unsupported family.
            MissingExtraError: it is quantised by a package that is not installed.
            RequestError: the device is not there, or the options make no sense.
        """
        family = load(model, device=pick_device(device), dtype=dtype, options=options)
        return cls(family, library, row_budget=row_budget)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the adapters out; the pipeline is then as it was found."""
        if self._installation is not None:
            self._installation.eject()
            self._installation = None

    def prepare(self, request: Request, *, explain: bool = False) -> Prepared:
        """Load what a request needs and refuse it if it cannot be carried out.

        Args:
            request: what is asked for.
            explain: whether its pictures shall tell what each adapter did. They are the same.

        Raises:
            AdapterError: an adapter is unknown, broken or made for another base.
            RequestError: size, clip skip, scheduler or method do not fit; nothing to be explained.
        """
        if explain and not request.adapters:
            raise RequestError(
                "a request without adapters was to be explained; expected at least one, so add"
                " --lora NAME or leave --explain out"
            )
        family = self.family
        size = request.size or family.default_size
        family.check_size(size)
        family.check_guidance(request.guidance, request.true_cfg)
        family.check_clip_skip(request.clip_skip)
        guidance = family.guidance if request.guidance is None else request.guidance
        request = replace(request, size=size, guidance=guidance)
        loaded = [self._adapter(use) for use in request.adapters]
        adapters = AdapterSet(tuple(a for a, _ in loaded))
        run = self._run(request, adapters, request.seeds[:1])
        check_needs(request.method, run)
        request.method.check(run)
        reports = tuple(r for _, r in loaded)
        warnings = (
            *unmatched_warnings(adapters, reports),
            *wording_warnings(request, self.family, adapters),
            *unheard_warnings(run),
        )
        return Prepared(request, adapters, reports, warnings, explain)

    def generate(
        self,
        request: Request,
        *,
        explain: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """Make every picture of a request; see `prepare` for `explain` and for what is raised."""
        prepared = self.prepare(request, explain=explain)
        return Result(tuple(self.images(prepared, progress=progress)), prepared.warnings)

    def images(
        self, prepared: Prepared, *, progress: Callable[[Progress], None] | None = None
    ) -> Iterator[ComposedImage]:
        """Make the pictures one by one, so that each can be kept as soon as it is done.

        A picture is the same made alone or among others: each has its own noise and loop.
        """
        self._install(prepared.adapters)
        alone = prepared.request.one_by_one()
        for number, request in enumerate(alone, start=1):
            each = partial(_report, progress, number, len(alone))
            yield from self._images([request], prepared.adapters, each, explain=prepared.explain)

    def together(
        self,
        prepared: Sequence[Prepared],
        *,
        progress: Callable[[Progress], None] | None = None,
    ) -> tuple[ComposedImage, ...]:
        """Make pictures as rows of the same denoiser calls.

        Sums of other numbers of rows round differently, so a picture is the same up to rounding as
        made alone, and bit for bit whenever the same pictures are made together. Each has its own
        noise; costs are those of all together.

        Args:
            prepared: requests for one picture each, which differ in prompt, negative prompt and
                seed only.
            progress: called after every step.

        Raises:
            RequestError: they differ in something else.
        """
        requests = [one for p in prepared for one in p.request.one_by_one()]
        check_together(requests)
        adapters = prepared[0].adapters
        self._install(adapters)
        each = partial(_report, progress, 1, 1)
        return tuple(self._images(requests, adapters, each))

    @torch.no_grad()
    def latents(
        self, prepared: Prepared, *, each: Each | None = None, observer: Observer | None = None
    ) -> tuple[Tensor, Run]:
        """The denoising loop, over all seeds of a request side by side.

        Args:
            prepared: a checked request.
            each: called after every step.
            observer: sees every step, such as an `Explainer` of the request's method.

        Returns:
            Final latents [images, C, H, W] and the run that made them.
        """
        self._install(prepared.adapters)
        try:
            each, requests = each or (lambda *_: None), prepared.request.one_by_one()
            return self._denoise(requests, prepared.adapters, each, observer or Observer())
        finally:
            self.family.release()

    def _images(
        self, requests: Sequence[Request], adapters: AdapterSet, each: Each, explain: bool = False
    ) -> list[ComposedImage]:
        """Requests for one picture each, side by side."""
        explainer = Explainer(requests[0].method) if explain else None
        try:
            with torch.no_grad():
                start = time.perf_counter()
                latents, run = self._denoise(requests, adapters, each, explainer or Observer())
                between = time.perf_counter()
                images = [image for row in latents for image in self.family.decode(row[None])]
                end = time.perf_counter()
        finally:
            self.family.release()
        cost = (run.calls, tuple(run.trace), between - start, end - between)
        told = explainer.explanations(run) if explainer else [None] * len(images)
        return [
            ComposedImage(image, one.seeds[0], one, *cost, words)
            for image, one, words in zip(images, requests, told, strict=True)
        ]

    def _denoise(
        self, requests: Sequence[Request], adapters: AdapterSet, each: Each, observer: Observer
    ) -> tuple[Tensor, Run]:
        run = begun(requests, adapters, self.family, self.slots, self.row_budget)
        method, schedule = requests[0].method, run.schedule
        generators = [torch.Generator("cpu").manual_seed(one.seeds[0]) for one in requests]
        latents = self.family.latents(
            requests[0].size or self.family.default_size, schedule, generators
        )
        run.state = method.prepare(run)
        for index in range(len(schedule.timesteps)):
            step = schedule.step(index)
            latents = method.adjust(run, step, latents)
            passes = method.passes(run, step)
            predictions = run.predict(latents, step, observer.before(run, step, passes))
            observer.after(run, step, latents, passes, predictions)
            fused = method.fuse(run, step, predictions)
            latents = schedule.advance(fused, step, latents, generators)
            each(index + 1, len(schedule.timesteps), latents)
        return latents, run

    def _run(self, request: Request, adapters: AdapterSet, seeds: Sequence[int]) -> Run:
        requests = replace(request, seeds=tuple(seeds)).one_by_one()
        return begun(requests, adapters, self.family, self.slots, self.row_budget)

    def _adapter(self, use: AdapterUse) -> tuple[Adapter, KeyReport]:
        entry = self.library.find(use.name)
        if entry.path not in self._loaded:
            self._loaded[entry.path] = load_adapter(
                entry.path, self._bare_components(), name=entry.name
            )
        adapter, report = self._loaded[entry.path]
        if use.trigger is not None:
            adapter = replace(adapter, triggers=(use.trigger,))
        return adapter, report

    def _bare_components(self) -> dict[str, torch.nn.Module]:
        """The model without gated layers, so that module paths are those of the files."""
        self.close()
        return self.family.components

    def _install(self, adapters: AdapterSet) -> None:
        there = self._installation
        if there is not None and [*map(id, there.adapters)] == [*map(id, adapters)]:
            return
        self.close()
        self._installation = install(self.family.components, adapters, self.family.site, self.slots)


def _report(
    progress: Callable[[Progress], None] | None,
    image: int,
    images: int,
    step: int,
    steps: int,
    latents: Tensor,
) -> None:
    if progress is not None:
        progress(Progress(image, images, step, steps, latents))
