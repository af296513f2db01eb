"""What all parts of the page share, and jobs as gradio sees them: generators of updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from compose.adapters.library import AdapterEntry, AdapterLibrary
from compose.errors import ComposeError

from ..studio import Studio
from . import status
from .work import Laid, Made, Stepped, Warned
from .worker import Ended, Job, Waiting, Worker

_PAUSE = 0.25  # seconds between two steps that are told
Work = Callable[[Studio, Job], None]


@dataclass(frozen=True)
class App:
    """The parts that do not change while the app runs.

    Attributes:
        worker: owns the model.
        studio: of the worker; only its facts may be read here.
        library: of adapters, by name.
        folder: where pictures are saved, and the only one that is shown.
    """

    worker: Worker
    studio: Studio
    library: AdapterLibrary
    folder: Path

    def entries(self) -> dict[str, AdapterEntry]:
        """Adapters by name."""
        return {entry.name: entry for entry in self.library.entries()}


@dataclass
class Seen:
    """What a browser has been shown of a job.

    Attributes:
        line: HTML of the status.
        picture: the latest picture, in the making or saved.
        made: files of saved pictures.
        sheet: file of the sheet they were laid out in.
        done: whether the job is over.
    """

    line: str = ""
    picture: Any = None
    made: list[Path] = field(default_factory=list)
    sheet: Path | None = None
    done: bool = False
    _shown: Any = None

    def value(self) -> Any:
        """The picture as an image component takes it; nothing where it was shown already."""
        if self.picture is self._shown:
            return gr.skip()
        self._shown = self.picture
        return str(self.picture) if isinstance(self.picture, Path) else self.picture


def run(app: App, owner: str, make: Callable[[], Work]) -> Iterator[Seen]:
    """Hand a job in and tell, again and again, what has become of it.

    Args:
        app: the app.
        owner: the browser.
        make: gives the work; what it refuses is told like what the work refuses.
    """
    seen = Seen(status.calm("starting"))
    warnings: list[str] = []
    yield seen
    try:
        job = app.worker.submit(owner, make())
    except ComposeError as refused:
        seen.line, seen.done = status.error(str(refused)), True
        yield seen
        return
    last = 0.0
    for event in app.worker.follow(job):
        _take(event, seen, warnings)
        now = time.monotonic()
        if isinstance(event, Stepped) and now - last < _PAUSE:
            continue  # a browser cannot draw a thousand small steps
        last = now
        yield seen


def _take(event: Any, seen: Seen, warnings: list[str]) -> None:
    match event:
        case Waiting():
            seen.line = status.waiting(event)
        case Warned(text):
            warnings.append(text)
            seen.line = status.ended("starting", warnings)
        case Stepped():
            seen.line = status.stepped(event, warnings)
            seen.picture = event.preview or seen.picture
        case Made(path):
            seen.made.append(path)
            seen.picture = path
        case Laid(path):
            seen.sheet = path
        case Ended():
            seen.line, seen.done = _over(event, len(seen.made), warnings), True


def _over(event: Ended, made: int, warnings: Sequence[str]) -> str:
    if event.error:
        return status.error(event.error, warnings)
    pictures = "1 picture" if made == 1 else f"{made} pictures"
    if event.cancelled:
        return status.ended(f"cancelled; {pictures} finished and kept", warnings)
    return status.ended(f"done: {pictures} saved", warnings)


def buttons(running: bool) -> tuple[Any, Any]:
    """Updates of a start and a cancel button."""
    return gr.update(interactive=not running), gr.update(interactive=running)


def cancels(app: App, button: Any) -> None:
    """Let a button cancel what its browser has running."""

    def cancel(request: gr.Request) -> None:
        app.worker.cancel(str(request.session_hash))

    button.click(cancel, None, None, queue=False, api_visibility="private")
