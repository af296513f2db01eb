"""The tab that makes pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from compose.errors import ComposeError

from ..metadata import read_recipe
from ..order import Column
from ..replaying import found_again
from . import comparing, regions, status
from .app import App, Seen, Work, buttons, cancels, run
from .form import Form
from .inputs import Inputs
from .work import make_columns

_KEPT = 60  # most pictures in a browser's own strip


def draw(app: App) -> Callable[[Any], None]:
    """Draw the tab at this place of the page.

    Returns:
        To be called with a state that holds the file of a picture: whenever it changes, the
        settings of that picture come back.
    """
    shown, shots = gr.State(()), gr.State(())
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=420):
            inputs = Inputs.draw(app.library, app.studio.composer.family)
            inputs.follow_choice(shown, app.library)
        with gr.Column(scale=4, min_width=360), gr.Tabs():
            with gr.Tab("Picture"):
                line = _picture_tab(app, inputs, shown, shots)
            with gr.Tab("Regions"):
                regions.draw(app, inputs, shown)
            with gr.Tab("Compare"):
                comparing.draw_methods(app, inputs)
            with gr.Tab("X/Y grid"):
                comparing.draw_plane(app, inputs)
            with gr.Tab("Explain"):
                comparing.draw_explained(app, inputs)
    return lambda chosen: _recalls(app, inputs, shown, chosen.change, chosen, line)


def _picture_tab(app: App, inputs: Inputs, shown: Any, shots: Any) -> Any:
    with gr.Row():
        go = gr.Button("Generate", variant="primary", scale=3, elem_id="go")
        stop = gr.Button("Cancel", interactive=False, scale=1, elem_id="stop")
    line = gr.HTML(status.calm("ready"), elem_id="status")
    picture = gr.Image(
        label="Picture",
        format="png",
        height=460,
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="picture",
    )
    strip = gr.Gallery(
        label="Made in this window; choose one to recall its settings",
        columns=5,
        height=150,
        format="png",
        object_fit="cover",
        fit_columns=False,
        allow_preview=False,
        elem_id="shots",
    )

    def generate(
        before: tuple[str, ...], request: gr.Request, *values: Any
    ) -> Iterator[Sequence[Any]]:
        told = 0
        for seen in run(app, str(request.session_hash), lambda: _work(app, inputs, values)):
            kept = (*map(str, reversed(seen.made)), *before)[:_KEPT]
            fresh = len(seen.made) > told
            told = len(seen.made)
            yield _shown(seen, kept, fresh)

    go.click(
        generate,
        [shots, *inputs.components],
        [line, picture, strip, shots, go, stop],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    cancels(app, stop)
    dropped = gr.File(
        label="Drop a PNG made here to get all its settings back",
        file_types=[".png"],
        height=130,
        elem_id="recall",
    )
    _recalls(app, inputs, shown, dropped.upload, dropped, line)
    _recalls_chosen(app, inputs, shown, shots, strip, line)
    return line


def _shown(seen: Seen, kept: tuple[str, ...], fresh: bool) -> Sequence[Any]:
    strip = [(path, _caption(path)) for path in kept] if fresh else gr.skip()
    return (seen.line, seen.value(), strip, kept, *buttons(not seen.done))


def _caption(path: str) -> str:
    seed, method, *_ = Path(path).stem.split("-")
    return f"{method} · seed {seed}"


def _work(app: App, inputs: Inputs, values: Sequence[Any]) -> Work:
    form = inputs.read(values)
    request = form.request(app.library)
    return make_columns([Column(request.method.name, request)], app.folder)


def _recalls(app: App, inputs: Inputs, shown: Any, event: Any, file: Any, line: Any) -> None:
    """Bring back the settings of a picture whenever an event of the component that holds its file
    happens.
    """

    def recall(path: str | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * (1 + len(inputs.written(shown)))
        return recalled(app, inputs, Path(path))

    event(
        recall,
        file,
        [line, *inputs.written(shown)],
        show_progress="hidden",
        api_visibility="private",
    )


def _recalls_chosen(
    app: App, inputs: Inputs, shown: Any, shots: Any, strip: Any, line: Any
) -> None:
    def recall(paths: tuple[str, ...], chosen: gr.SelectData) -> list[Any]:
        return recalled(app, inputs, Path(paths[chosen.index]))

    strip.select(
        recall,
        shots,
        [line, *inputs.written(shown)],
        show_progress="hidden",
        api_visibility="private",
    )


def recalled(app: App, inputs: Inputs, path: Path) -> list[Any]:
    """Status and updates of `Inputs.written` that bring back the settings of a picture."""
    try:
        recipe = read_recipe(path)
        request = found_again(recipe, app.library)
        updates = inputs.write(Form.of(request), app.entries())
    except ComposeError as refused:
        text = str(refused).replace(str(path), path.name)
        return [status.error(text), *[gr.skip()] * len(inputs.written(None))]
    notes = app.worker.differences(recipe, request)
    return [status.ended(f"settings of {path.name}", notes), *updates]
