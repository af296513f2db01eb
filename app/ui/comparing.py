"""Methods with the same seeds, grids over any two settings, and what each adapter did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from compose.errors import RequestError
from compose.fusion import method as method_named

from ..order import Column, compared
from . import status
from .app import App, Seen, Work, buttons, cancels, run
from .axes import AXES, Axis, read_axis
from .form import Form, method_choices
from .inputs import Inputs
from .work import make_columns, make_plane

_MOST = 64  # most pictures of a grid


def draw_methods(app: App, inputs: Inputs) -> None:
    """Draw the tab that compares methods at this place of the page."""
    chosen = gr.Dropdown(
        choices=method_choices(),
        value=["merge", "composite"],
        multiselect=True,
        label="Methods",
        info="beside them come the base alone and every adapter alone; all with the same seeds",
        elem_id="compared",
    )

    def make(form: Form, names: Sequence[str]) -> Work:
        if not names:
            raise RequestError("no method is chosen; expected some to compare")
        for name in names:
            method_named(name)
        request = form.request(app.library)
        columns = compared(request, [form.chosen(name) for name in names])
        return make_columns(columns, app.folder, sheet=True)

    _draw(app, inputs, "Compare", "sheet", [chosen], make)


def draw_plane(app: App, inputs: Inputs) -> None:
    """Draw the tab of X/Y grids at this place of the page."""
    asked: list[Any] = []
    for letter, axis, values in (("X", "method", "merge, composite"), ("Y", "seed", "1, 2")):
        with gr.Row():
            asked.append(
                gr.Dropdown(
                    choices=list(AXES),
                    value=axis,
                    label=letter,
                    allow_custom_value=True,
                    info="or weight of NAME, or METHOD.FIELD",
                    scale=1,
                    elem_id=f"axis-{letter.lower()}",
                )
            )
            asked.append(
                gr.Textbox(
                    values,
                    label=f"Values of {letter}",
                    info="commas between, or 1..4 for whole numbers",
                    scale=2,
                    elem_id=f"values-{letter.lower()}",
                )
            )

    def make(form: Form, x: str, across: str, y: str, down: str) -> Work:
        columns, rows = read_axis(x, across), read_axis(y, down)
        return make_plane(*plane(app, form, columns, rows), app.folder)

    _draw(app, inputs, "Make grid", "xy-sheet", asked, make)


def draw_explained(app: App, inputs: Inputs) -> None:
    """Draw the tab that tells what each adapter did at this place of the page."""
    gr.Markdown(
        "Makes the same picture and a sheet beside it: where each adapter's words were looked at,"
        " its mask, its effect, and how much of that fell outside its region. Takes longer."
    )

    def make(form: Form) -> Work:
        request = form.request(app.library)
        if not request.adapters:
            raise RequestError("there is no adapter to be explained; expected one, so choose some")
        return make_columns([Column(request.method.name, request)], app.folder, explain=True)

    _draw(app, inputs, "Explain", "explained", [], make)


def plane(app: App, form: Form, columns: Axis, rows: Axis) -> tuple[Any, Axis, Axis]:
    """Requests of a grid, by row and column, and its axes.

    Raises:
        RequestError: too many pictures, or a value that makes no sense.
    """
    if len(columns.values) * len(rows.values) > _MOST:
        raise RequestError(
            f"a grid of {len(columns.values)}x{len(rows.values)} was asked for; expected at most"
            f" {_MOST} pictures, so give fewer values"
        )
    cells = [
        [columns.put(rows.put(form, below), right).request(app.library) for right in columns.values]
        for below in rows.values
    ]
    return cells, columns, rows


def _draw(
    app: App,
    inputs: Inputs,
    label: str,
    name: str,
    asked: Sequence[Any],
    make: Callable[..., Work],
) -> None:
    """A button, its cancel, a line and a sheet, fed by what `make` makes of a form and `asked`."""
    with gr.Row():
        go = gr.Button(label, scale=3, elem_id=f"{name}-go")
        stop = gr.Button("Cancel", interactive=False, scale=1)
    line = gr.HTML(status.calm("uses everything on the left"), elem_id=f"{name}-status")
    sheet = gr.Image(
        label="Sheet",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )

    def start(request: gr.Request, *values: Any) -> Iterator[Sequence[Any]]:
        own, rest = values[: len(asked)], values[len(asked) :]
        for seen in run(app, str(request.session_hash), lambda: make(inputs.read(rest), *own)):
            yield seen.line, _latest(seen), *buttons(not seen.done)

    go.click(
        start,
        [*asked, *inputs.components],
        [line, sheet, go, stop],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    cancels(app, stop)


def _latest(seen: Seen) -> Any:
    if seen.sheet is not None:
        return str(seen.sheet)
    return seen.value()
