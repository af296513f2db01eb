"""The whole of ``batch``: read, make, lay out, report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compose.adapters.library import AdapterLibrary
from compose.device import pick_device
from compose.errors import BatchError, RequestError
from compose.models.source import find, packages
from compose_app.console import Screen, hush
from compose_app.hub import local_model, local_settings
from compose_app.identity import model_fingerprint, versions

from .executors import open_pool
from .manifest import NAME
from .runner import Outcome, run_batch
from .sheets import write_sheets
from .spec import Batch


def make_batch(
    batch: Batch,
    folder: Path,
    screen: Screen,
    *,
    executor: str,
    workers: int | None = None,
    address: str | None = None,
    resume: bool = False,
    offline: bool = False,
) -> None:
    """Make a batch, draw its contact sheets, and report.

    Args:
        batch: read and checked.
        folder: that can be written to.
        screen: where results, warnings and progress go.
        executor, workers, address, offline: as of `compose_workflows.executors.open_pool`.
        resume: go on with what lies in the folder.

    Raises:
        ComposeError: the batch cannot be begun, or pictures are missing in the end.
        KeyboardInterrupt: with a message; finished pictures are kept.
        RuntimeError: a failure that is our fault.
    """
    hush()
    start = time.perf_counter()
    if workers is not None and not 1 <= workers <= 1024:
        raise RequestError(f"--workers {workers} is out of range; expected 1 to 1024")
    ended = 0
    with screen.progress("batch", 1) as step:

        def each(done: int, total: int) -> None:
            nonlocal ended
            for number in range(ended + 1, done + 1):
                step(number, total)
            ended = done

        try:
            outcome = run_batch(
                batch.jobs,
                lambda: open_pool(
                    executor, batch, workers=workers, address=address, offline=offline
                ),
                folder,
                identity=identity(batch, offline=offline),
                resume=resume,
                retries=batch.retries,
                each=each,
                warn=screen.warn,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted: {ended} pictures of this run are finished and kept; --resume goes on"
                " from there"
            ) from None
    conclude(batch, outcome, folder, screen, start)


def identity(batch: Batch, *, offline: bool) -> dict[str, Any]:
    """Whatever changes a picture beside the batch's own items.

    Raises:
        ModelError: a model is missing or broken.
    """
    options = batch.options
    if options.config is not None:
        local_settings(options.config, offline=offline)
    models = dict.fromkeys(item.model for item in batch.items)
    sources = {name: find(local_model(name, offline=offline), options) for name in models}
    library = AdapterLibrary.default()
    used = {use["name"] for item in batch.items for use in item.request["adapters"]}
    also = {name for source in sources.values() for name in packages(source, options)}
    return {
        "models": {n: model_fingerprint(source.files()) for n, source in sources.items()},
        "adapters": {name: library.find(name).hashes.autov3 for name in sorted(used)},
        "versions": versions(sorted(also)),
        "device": batch.device if batch.device != "auto" else pick_device("auto").type,
        "dtype": batch.dtype,
        "options": options.deciding(),
    }


def conclude(batch: Batch, outcome: Outcome, folder: Path, screen: Screen, start: float) -> None:
    """Draw the contact sheets, report, and complain of what is missing."""
    files = {name: folder / entry.file for name, entry in outcome.entries.items()}
    sheets = write_sheets(batch.items, files, folder)
    for path in (*(files[item.name] for item in batch.items if item.name in files), *sheets):
        screen.result(str(path))
    screen.data(report(batch, outcome, folder, sheets, screen, start))
    if not outcome.failed:
        return
    first = outcome.failed[0]
    told = (
        f"{len(outcome.failed)} of {outcome.wanted} pictures failed, the first of them"
        f" {first.item} after {first.attempt} attempts ({first.error.splitlines()[0]}); the rest"
        f" is done: see {folder / NAME}, and --resume tries them again"
    )
    if outcome.crash:
        raise RuntimeError(f"{told}\n{outcome.crash}")
    raise BatchError(told)


def report(
    batch: Batch,
    outcome: Outcome,
    folder: Path,
    sheets: list[Path],
    screen: Screen,
    start: float,
) -> Mapping[str, Any]:
    """The result in JSON; docs/batch.md says what is what."""
    listed = [outcome.entries[i.name] for i in batch.items if i.name in outcome.entries]
    return {
        "images": [
            {
                "item": entry.item,
                "path": str(folder / entry.file),
                "seed": entry.seed,
                "sha256": entry.sha256,
                "axes": dict(entry.axes),
            }
            for entry in listed
        ],
        "wanted": outcome.wanted,
        "made": outcome.made,
        "failed": [
            {"item": entry.item, "attempts": entry.attempt, "error": entry.error}
            for entry in outcome.failed
        ],
        "sheets": [str(path) for path in sheets],
        "manifest": str(folder / NAME),
        "seconds": round(time.perf_counter() - start, 3),
        "warnings": screen.warnings,
    }
