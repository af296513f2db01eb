"""A loaded model that makes pictures and saves each with its recipe as soon as it is done."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.device import out_of_memory
from compose.errors import RequestError
from compose.models.source import Source, find, packages
from compose.request import Request
from compose.result import ComposedImage, Prepared, Progress

from .beside import Beside
from .console import hush
from .explaining import sheet_bytes
from .files import write_new
from .hub import local_model, local_settings
from .identity import model_fingerprint, pixels_hash, versions
from .metadata import AdapterMark, Recipe, png_bytes
from .order import Setting

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_UNSAFE = re.compile(r"[^\w.+-]+")  # in a file name


@dataclass(frozen=True)
class Saved:
    """A picture that lies on the disk.

    Attributes:
        path: its file.
        sha256: of the raw RGB bytes.
        made: the picture and what it cost.
        sheet: file of its explanation, where that was asked for.
    """

    path: Path
    sha256: str
    made: ComposedImage
    sheet: Path | None = None


class Studio:
    """A model, ready to work.

    Attributes:
        composer: the engine.
        setting: as asked for.
        load: seconds it took to get the model ready.
    """

    def __init__(self, composer: Composer, setting: Setting, source: Source, load: float) -> None:
        self.composer = composer
        self.setting = setting
        self.load = load
        self._packages = packages(source, setting.options)
        self._fingerprint: Future[str] = _in_background(lambda: model_fingerprint(source.files()))

    @classmethod
    def open(cls, setting: Setting, library: AdapterLibrary | None = None) -> Studio:
        """Load the model; `library` as for `Composer`.

        Raises:
            ModelError: it is missing, broken or of an unsupported family.
            MissingExtraError: it is quantised by a package that is not installed.
            RequestError: the device is not there, the options make no sense, or memory does not
                suffice.
        """
        hush()
        start = time.perf_counter()
        model, options = local_model(setting.model, offline=setting.offline), setting.options
        if options.config is not None:
            config = local_settings(options.config, offline=setting.offline)
            options = replace(options, config=config)
        source = find(model, options)
        with memory_guard():
            composer = Composer.load(
                model,
                device=setting.device,
                dtype=setting.dtype,
                options=options,
                library=library,
            )
        return cls(composer, setting, source, time.perf_counter() - start)

    @property
    def fingerprint(self) -> str:
        """Identity of the model's files."""
        return self._fingerprint.result()

    @property
    def device(self) -> str:
        """Kind of device, such as "cpu"."""
        return self.composer.family.device.type

    @property
    def dtype(self) -> str:
        """Dtype of the denoiser, as flags spell it."""
        return _DTYPES[self.composer.family.dtype]

    def pictures(
        self,
        prepared: Prepared,
        label: str,
        folder: Path,
        progress: Callable[[Progress], None],
    ) -> Iterator[Saved]:
        """Make the pictures of a request and save them one by one.

        Args:
            prepared: a checked request.
            label: goes into the file names: ``<seed>-<label>-<8 digits of the recipe>.png``, and
                the same with ``-explain`` for the sheet of a picture that is explained.
            folder: where to save.
            progress: called after every step.

        Raises:
            RequestError: a picture cannot be written, or memory does not suffice.
        """
        with memory_guard():
            for made in self.composer.images(prepared, progress=progress):
                yield self.save(made, label, folder)

    def together(
        self, prepared: Sequence[Prepared], each: Callable[[int, int], None]
    ) -> tuple[ComposedImage, ...]:
        """Make pictures as rows of the same denoiser calls; as of `Composer.together`."""

        def tell(where: Progress) -> None:
            each(where.step, where.steps)

        with memory_guard():
            return self.composer.together(prepared, progress=tell)

    def save(
        self, made: ComposedImage, label: str, folder: Path, beside: Beside | None = None
    ) -> Saved:
        """Save a picture as `pictures` does; `beside` as of `sealed`."""
        data, recipe = self.sealed(made, beside)
        stem = f"{made.seed}-{_UNSAFE.sub('_', label)}-{_short_hash(recipe)}"
        told = sheet_bytes(made, made.explanation) if made.explanation else None
        path = write_new(folder, stem, ".png", data)
        sheet = write_new(folder, f"{path.stem}-explain", ".png", told) if told else None
        return Saved(path, recipe.sha256, made, sheet)

    def sealed(self, made: ComposedImage, beside: Beside | None = None) -> tuple[bytes, Recipe]:
        """A picture's PNG file, and the recipe in it.

        Args:
            made: the picture.
            beside: what shared its denoiser calls; None where nothing did.
        """
        image = made.image.convert("RGB")
        recipe = self.recipe(made.request, self.marks(made.request), pixels_hash(image))
        recipe = replace(recipe, beside=beside)
        return png_bytes(image, recipe, distilled=self.composer.family.distilled), recipe

    def marks(self, request: Request) -> tuple[AdapterMark, ...]:
        """Names and hashes of the adapters of a request."""
        entries = [self.composer.library.find(use.name) for use in request.adapters]
        return tuple(AdapterMark(e.name, e.hashes.autov2, e.hashes.autov3) for e in entries)

    def recipe(self, request: Request, marks: tuple[AdapterMark, ...], digest: str) -> Recipe:
        """All that is needed to make one picture again.

        Args:
            request: for that picture alone, defaults filled in.
            marks: its adapters.
            digest: of its pixels.
        """
        family = self.composer.family
        scheduler = family.schedule(request.steps, request.scheduler, request.size).scheduler
        return Recipe(
            request=request,
            model=self.setting.model,
            fingerprint=self.fingerprint,
            adapters=marks,
            versions=versions(self._packages),
            device=self.device,
            dtype=self.dtype,
            sampler=type(scheduler).__name__,
            sha256=digest,
            options=self.setting.options,
            threads=torch.get_num_threads() if self.device == "cpu" else None,
        )


@contextmanager
def memory_guard() -> Iterator[None]:
    """Turn running out of memory into advice.

    Raises:
        RequestError: memory did not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not out_of_memory(error):
            raise
        raise RequestError(
            "the request needs more memory than there is; expected less work at a time, so use a"
            " smaller --size, a smaller --dtype, fewer adapters, --vae-tiling, or on a GPU"
            " --offload model"
        ) from None


def _short_hash(recipe: Recipe) -> str:
    data = json.dumps(recipe.to_json(), sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()[:8]


def _in_background(work: Callable[[], str]) -> Future[str]:
    """Hashing leaves the interpreter free, so it costs nothing beside denoising."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work)
    finally:
        pool.shutdown(wait=False)
