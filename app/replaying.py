"""The whole of ``replay``: make a picture again and compare."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from compose.adapters.library import AdapterLibrary
from compose.errors import AdapterNotFoundError
from compose.request import AdapterUse, Request

from .beside import Beside
from .console import Screen
from .identity import installed
from .making import Work, prepare, produce, report
from .metadata import AdapterMark, Recipe
from .order import Column, Setting
from .studio import Studio


def rebuild(
    recipe: Recipe,
    folder: Path,
    screen: Screen,
    *,
    start: float,
    offload: str = "none",
    explain: bool = False,
) -> None:
    """Make the picture of a recipe, save it, and say whether it is the same.

    Args:
        recipe: of the picture.
        folder: that can be written to.
        screen: where result and warnings go.
        start: `time.perf_counter` when the command began.
        offload: as for `LoadOptions`; it changes no pixel, so recipes do not tell.
        explain: whether to tell what each adapter did.

    Raises:
        ComposeError: model or adapters are not here, or the request cannot be carried out.
    """
    request = found_again(recipe, AdapterLibrary.default())
    options = replace(recipe.options, offload=offload)
    setting = Setting(recipe.model, *_machine(recipe, screen), offline=True, options=options)
    studio = Studio.open(setting)
    for difference in differences(recipe, studio, request):
        screen.warn(difference)
    with _threads(recipe):
        columns = [Column(request.method.name, request)]
        work = prepare(columns, studio, screen, explain=explain)
        work.load = time.perf_counter() - start
        if recipe.beside is None:
            produce(work, studio, folder, screen)
        else:
            _produce_beside(work, recipe.beside, studio, folder, screen)
    same = work.saved[0][1].sha256 == recipe.sha256
    screen.result(f"identical: {str(same).lower()}")
    if not same:
        screen.warn("the picture differs from the one the recipe was taken from")
    screen.data({**report(work, setting, screen, start), "identical": same})


@contextmanager
def _threads(recipe: Recipe) -> Iterator[None]:
    """As many threads as the recipe was made with; sums of other numbers round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _produce_beside(
    work: Work, beside: Beside, studio: Studio, folder: Path, screen: Screen
) -> None:
    """Make everything that shared the picture's denoiser calls, and save the picture."""
    (column,), (prepared,) = work.columns, work.prepared
    rows = [studio.composer.prepare(one) for one in beside.requests(prepared.request)]
    with screen.progress("picture", 1) as each:
        made = studio.together(rows, each)[beside.index]
    saved = studio.save(made, column.label, folder, beside)
    work.saved.append((0, saved))
    screen.result(str(saved.path))


def found_again(recipe: Recipe, library: AdapterLibrary) -> Request:
    """The request with adapters that are here: by name, else by what is in the file.

    Raises:
        AdapterNotFoundError: an adapter is here under no name.
    """
    pairs = zip(recipe.request.adapters, recipe.adapters, strict=True)
    return replace(
        recipe.request, adapters=tuple(_found(use, mark, library) for use, mark in pairs)
    )


def _found(use: AdapterUse, mark: AdapterMark, library: AdapterLibrary) -> AdapterUse:
    try:
        library.find(use.name)
        return use
    except AdapterNotFoundError:
        for entry in library.entries():
            if entry.hashes.autov3 == mark.autov3:
                return replace(use, name=str(entry.path))
        raise AdapterNotFoundError(
            f"the recipe uses adapter {use.name} (AutoV3 {mark.autov3}), which is not here;"
            " expected a file with that hash, so put it into ./adapters or a folder of"
            " $LORA_COMPOSE_ADAPTERS"
        ) from None


def differences(recipe: Recipe, studio: Studio, request: Request) -> list[str]:
    """What is not as it was when the picture was made, in warnings."""
    found = []
    if studio.fingerprint != recipe.fingerprint:
        found.append(
            f"model {recipe.model} has changed: its fingerprint is {studio.fingerprint[:10]}, the"
            f" recipe's {recipe.fingerprint[:10]}"
        )
    for then, now in zip(recipe.adapters, studio.marks(request), strict=True):
        if then.autov3 != now.autov3:
            found.append(
                f"adapter {then.name} has changed: its AutoV3 is {now.autov3}, the recipe's"
                f" {then.autov3}"
            )
    for name, version in recipe.versions.items():
        here = installed(name)
        if here != version:
            found.append(f"{name} is {here or 'missing'}, the recipe was made with {version}")
    return found


def _machine(recipe: Recipe, screen: Screen) -> tuple[str, str]:
    """Device and dtype of the recipe, or the nearest there is."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        screen.warn("the recipe is from cuda, which is not here; made on the cpu it will differ")
        return "cpu", "fp32" if recipe.dtype == "fp16" else recipe.dtype
    return recipe.device, recipe.dtype
