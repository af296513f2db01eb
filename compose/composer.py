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
from compose.regions import drawn
from compose.request import AdapterUse, Request
from compose.result import ComposedImage, Prepared, Progress, Result
from compose.run import Run
from compose.slot import GateSlot
from compose.wording import unmatched_warnings, wording_warnings

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
            *_unheard(run),
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

        A picture is the same whether it is made alone or among others: each has its own noise and
            its own loop.
        """
        self._install(prepared.adapters)
        seeds = prepared.request.seeds
        for number, seed in enumerate(seeds, start=1):
            alone = replace(prepared.request, seeds=(seed,))
            each = partial(_report, progress, number, len(seeds))
            yield self._image(replace(prepared, request=alone), each)

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
            return self._denoise(prepared, each or (lambda *_: None), observer or Observer())
        finally:
            self.family.release()

    def _image(self, prepared: Prepared, each: Each) -> ComposedImage:
        request = prepared.request
        explainer = Explainer(request.method) if prepared.explain else None
        try:
            with torch.no_grad():
                start = time.perf_counter()
                latents, run = self._denoise(prepared, each, explainer or Observer())
                between = time.perf_counter()
                (image,) = self.family.decode(latents)
                end = time.perf_counter()
        finally:
            self.family.release()
        return ComposedImage(
            image,
            request.seeds[0],
            request,
            run.calls,
            tuple(run.trace),
            between - start,
            end - between,
            explainer.explanations(run)[0] if explainer else None,
        )

    def _denoise(self, prepared: Prepared, each: Each, observer: Observer) -> tuple[Tensor, Run]:
        request = prepared.request
        run = self._run(request, prepared.adapters, request.seeds)
        method, schedule = request.method, run.schedule
        generators = [torch.Generator("cpu").manual_seed(s) for s in request.seeds]
        latents = self.family.latents(
            request.size or self.family.default_size, schedule, generators
        )
        run.state = method.prepare(run)
        for index in range(len(schedule.timesteps)):
            step = schedule.step(index)
            latents = method.adjust(run, step, latents)
            passes = method.passes(run, step)
            predictions = run.predict(latents, step, observer.before(run, step, passes))
            observer.after(run, step, latents, passes, predictions)
            latents = schedule.advance(
                method.fuse(run, step, predictions), step, latents, generators
            )
            each(index + 1, len(schedule.timesteps), latents)
        return latents, run

    def _run(self, request: Request, adapters: AdapterSet, seeds: Sequence[int]) -> Run:
        regions = [use.region for use in request.adapters]
        size = request.size or self.family.default_size
        guidance = self.family.guidance if request.guidance is None else request.guidance
        distilled = self.family.distilled
        return Run(
            family=self.family,
            adapters=adapters,
            weights=tuple(a.weight for a in request.adapters),
            text_weights=tuple(a.text_strength for a in request.adapters),
            prompts=(request.prompt,) * len(seeds),
            negatives=(request.negative,) * len(seeds),
            guidance=request.true_cfg or 1.0 if distilled else guidance,
            distilled_guidance=guidance if distilled else None,
            clip_skip=request.clip_skip,
            regions=drawn(regions, self.family.grid(size)),
            placed=tuple(region is not None for region in regions),
            schedule=self.family.schedule(request.steps, request.scheduler, request.size),
            slots=self.slots,
            row_budget=self.row_budget,
        )

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
        if self._installation is not None and self._installation.adapters is adapters:
            return
        self.close()
        self._installation = install(self.family.components, adapters, self.family.site, self.slots)


def _unheard(run: Run) -> Iterator[str]:
    if any(run.negatives) and not run.guided:
        scale = "--true-cfg" if run.family.distilled else "--guidance"
        yield f"the negative prompt has no effect without guidance; give {scale} above 1"


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
