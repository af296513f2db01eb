"""The tab that shows evaluation reports."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from compose.errors import RequestError

from . import status
from .app import App
from .confined import inside

PAGE = "report.html"
_LARGEST = 64 * 2**20  # bytes of a report


def draw(app: App) -> None:
    """Draw the tab at this place of the page."""
    names = found(app.folder)
    with gr.Row():
        chosen = gr.Dropdown(
            names,
            value=next(iter(names), None),
            label="Report",
            info="of lora-compose evaluate, in folders inside the output folder",
            scale=4,
            elem_id="report",
        )
        again = gr.Button("Refresh", scale=0, min_width=120)
    view = gr.HTML(lambda: shown(app.folder, next(iter(found(app.folder)), None)))
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    chosen.change(lambda name: shown(app.folder, name), chosen, view, **quiet)
    again.click(lambda: gr.update(choices=found(app.folder)), None, chosen, **quiet)


def found(folder: Path) -> list[str]:
    """Folders of reports, newest first, as paths inside `folder`."""
    pages = [page for page in folder.glob(f"**/{PAGE}") if page.resolve().is_relative_to(folder)]
    pages.sort(key=lambda page: page.stat().st_mtime_ns, reverse=True)
    return [str(page.parent.relative_to(folder)) for page in pages]


def shown(folder: Path, name: str | None) -> str:
    """A report in a frame of its own, where it can run and fetch nothing."""
    if name is None:
        return status.calm(
            "no report yet; lora-compose evaluate quick --out OUT/quick makes one, where OUT is the"
            " app's output folder"
        )
    try:
        page = inside(folder / name / PAGE, folder)
        if page.stat().st_size > _LARGEST:
            raise RequestError(f"{name} is too large to be shown; open {PAGE} in a browser")
    except RequestError as refused:
        return status.error(str(refused))
    text = html.escape(page.read_text(errors="replace"))
    return f"<iframe class='report' title='report' sandbox='' srcdoc=\"{text}\"></iframe>"
