"""The tab with everything in the output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from .app import App
from .confined import inside

_NEWEST = 120


def draw(app: App) -> Any:
    """Draw the tab at this place of the page; comes back with the state that holds the choice."""
    chosen = gr.State(None)
    with gr.Row():
        gr.Markdown("The newest pictures of the output folder. Choose one to recall its settings.")
        again = gr.Button("Refresh", scale=0, min_width=120)
    wall = gr.Gallery(
        value=lambda: newest(app.folder),
        show_label=False,
        columns=6,
        height=620,
        format="png",
        object_fit="cover",
        fit_columns=False,
        allow_preview=False,
        elem_id="wall",
    )
    again.click(lambda: newest(app.folder), None, wall, api_visibility="private")

    def choose(at: gr.SelectData) -> str:
        return str(inside(app.folder / Path(str(at.value["caption"])).name, app.folder))

    wall.select(choose, None, chosen, show_progress="hidden", api_visibility="private")
    return chosen


def newest(folder: Path) -> list[tuple[str, str]]:
    """Pictures of a folder and their names, newest first."""
    files = [path for path in folder.glob("*.png") if path.is_file() and not path.is_symlink()]
    files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [(str(path), path.name) for path in files[:_NEWEST]]
