"""The page as a whole, and the server under it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from . import browser, create, gallery, reports, training
from .app import App
from .confined import MAX_UPLOAD
from .theme import css, script, theme
from .uploads import UploadGuard

Users = Sequence[tuple[str, str]]


def build(app: App) -> Any:
    """The page, a `gradio.Blocks`."""
    with gr.Blocks(
        title="lora-compose", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        gr.HTML(_masthead(app), elem_id="masthead")
        gr.HTML(_names(app), elem_id="library-names", padding=False)
        with gr.Tabs():
            with gr.Tab("Create"):
                recall = create.draw(app)
            with gr.Tab("Adapters"):
                browser.draw(app)
            with gr.Tab("Gallery"):
                recall(gallery.draw(app))
            with gr.Tab("Reports"):
                reports.draw(app)
            with gr.Tab("Train"):
                training.draw(app)
    page.queue(max_size=64, api_open=False, default_concurrency_limit=8)
    return page


def serve(page: Any, app: App, *, host: str, port: int, users: Users) -> str:
    """Answer browsers.

    Args:
        page: of `build`.
        app: the same.
        host, port: where to listen.
        users: names and passwords; none for an open door.

    Returns:
        Its address.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        auth=list(users) or None,
        share=False,
        inbrowser=False,
        quiet=True,
        show_error=True,
        footer_links=[],
        run_history=False,
        allowed_paths=[str(app.folder.resolve())],
        max_file_size=MAX_UPLOAD,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": [Middleware(UploadGuard)]},
        theme=theme(),
        css=css(),
        head=f"<script>{script()}</script>",
        prevent_thread_lock=True,
    )
    return str(address)


def _names(app: App) -> str:
    """Name, kind and default weight of every adapter, for the prompt to complete."""
    known = [(e.name, e.category, f"{e.default_weight:g}") for e in app.library.entries()]
    return f"<span data-names='{escape(json.dumps(known))}'></span>"


def _masthead(app: App) -> str:
    family = app.studio.composer.family
    model = Path(app.studio.setting.model).name
    facts = f"<code>{escape(model)}</code> {family.name}, {app.studio.device} {app.studio.dtype}"
    return f"<h1>lora-compose</h1><p>several LoRAs, one image, each of them survives · {facts}</p>"
