"""The whole of ``app``: load the model, answer browsers until interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..console import Screen
from ..order import Setting
from .app import App
from .confined import ADAPTERS, NamedAdapters
from .server import Users, build, serve
from .worker import Worker


@contextmanager
def opened(setting: Setting, folder: Path) -> Iterator[App]:
    """A worker with its model, and what the page needs of it.

    Args:
        setting: model and machine.
        folder: where pictures are saved.

    Raises:
        ComposeError: the model cannot be loaded.
    """
    trained = folder / ADAPTERS
    library = NamedAdapters([*NamedAdapters.default().folders, trained])
    worker = Worker(setting, library)
    studio = worker.start()
    try:
        yield App(worker, studio, library, folder)
    finally:
        worker.close()


def run_app(
    setting: Setting, folder: Path, screen: Screen, *, host: str, port: int, users: Users
) -> None:
    """Run the app until it is interrupted.

    Raises:
        ComposeError: the model cannot be loaded, or the port is taken.
    """
    with opened(setting, folder) as app:
        page = build(app)
        address = serve(page, app, host=host, port=port, users=users)
        screen.note(f"the app is at {address}; Ctrl-C ends it")
        try:
            page.block_thread()
        finally:
            page.close()
