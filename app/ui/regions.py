"""Where adapters belong: painted masks, and a look at all regions over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from compose.errors import ComposeError, RequestError
from compose.regions import Mask, Region
from compose.types import Size

from . import status
from .app import App
from .form import PAINTED, Row
from .inputs import Inputs

_CANVAS = 384  # longest side of the canvas, in pixels
_MASK = 128  # longest side of a kept mask: far finer than the latents of any model
_COLOURS = ("#6366f1", "#f59e0b", "#10b981", "#ef4444", "#0ea5e9", "#a855f7", "#84cc16", "#ec4899")


def draw(app: App, inputs: Inputs, shown: Any) -> None:
    """Draw the tab at this place of the page."""
    line = gr.HTML(
        status.calm("choose an adapter, take the brush, paint where it belongs, keep the mask"),
        elem_id="mask-status",
    )
    whose = gr.Radio(choices=[], label="Paint for", elem_id="paint-for")
    with gr.Row():
        keep = gr.Button("Keep mask", scale=1, elem_id="keep-mask")
        clear = gr.Button("Clear", scale=1)
    canvas = gr.ImageEditor(
        label="Canvas",
        type="numpy",
        image_mode="RGBA",
        format="png",
        layers=False,
        sources=(),
        transforms=(),
        brush=gr.Brush(default_size=48, colors=["#111827"], color_mode="fixed"),
        canvas_size=(_CANVAS, _CANVAS),
        fixed_canvas=True,
        height=470,
        elem_id="canvas",
    )
    overlay = gr.AnnotatedImage(
        label="All regions", format="png", height=320, elem_id="overlay", show_legend=True
    )
    written = [line, inputs.masks, *inputs.rows.components, overlay]

    def kept(name: str | None, painted: Any, before: tuple[Row, ...], *values: Any) -> list[Any]:
        try:
            form = inputs.read(values)
            mask = mask_of(name, painted, _size(app, form.width, form.height))
        except ComposeError as refused:
            return [status.error(str(refused)), *[gr.skip()] * (len(written) - 1)]
        masks = {**form.masks, str(name): mask}
        rows = [
            Row(r.name, r.weight, r.text_weight, PAINTED if r.name == name else r.region, r.words)
            for r in form.rows
        ]
        slots = inputs.rows.write(rows, {})[-len(inputs.rows.components) :]
        told = status.calm(f"the mask of {name} is kept; a method that places adapters uses it")
        return [told, masks, *slots, _overlay(app, rows, masks, form.width, form.height)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    keep.click(kept, [whose, canvas, shown, *inputs.components], written, **quiet)
    clear.click(lambda: None, None, canvas, **quiet)

    def looked(*values: Any) -> Any:
        try:
            form = inputs.read(values)
            return _overlay(app, form.rows, form.masks, form.width, form.height)
        except ComposeError:
            return gr.skip()  # said where the picture is asked for

    def names(rows: Sequence[Row], now: str | None) -> Any:
        known = [row.name for row in rows]
        return gr.update(choices=known, value=now if now in known else next(iter(known), None))

    shown.change(names, [shown, whose], whose, **quiet)
    for number in range(2, len(inputs.rows.components), 4):
        inputs.rows.components[number].change(looked, inputs.components, overlay, **quiet)


def mask_of(name: str | None, painted: Any, size: Size) -> Mask:
    """The mask that was painted on a canvas.

    Args:
        name: of the adapter.
        painted: value of the canvas; what was painted has alpha above zero.
        size: of the picture, whose aspect the mask takes.

    Raises:
        RequestError: no adapter, or nothing painted.
    """
    if name is None:
        raise RequestError("no adapter is chosen; expected one, so add adapters on the left first")
    alphas = [layer[..., 3] for layer in (painted or {}).get("layers", ()) if layer is not None]
    if not alphas or not any(alpha.any() for alpha in alphas):
        raise RequestError(f"nothing is painted for {name}; expected some strokes, so paint first")
    alpha = Image.fromarray(np.maximum.reduce(alphas).astype(np.uint8))
    scale = min(1.0, _MASK / max(size.width, size.height))
    wanted = (max(1, round(size.width * scale)), max(1, round(size.height * scale)))
    return Mask.of(alpha.resize(wanted, Image.Resampling.BOX))


def overlaid(
    regions: Mapping[str, Region], size: Size
) -> tuple[Image.Image, list[tuple[np.ndarray[Any, Any], str]]]:
    """A blank picture and, for every region, where it is: [h, w] in [0, 1]."""
    scale = _CANVAS / max(size.width, size.height)
    width, height = round(size.width * scale), round(size.height * scale)
    areas = [(region.on((height, width)).numpy(), name) for name, region in regions.items()]
    return Image.new("RGB", (width, height), (241, 245, 249)), areas


def _overlay(
    app: App,
    rows: Sequence[Row],
    masks: Mapping[str, Mask],
    width: int | None,
    height: int | None,
) -> Any:
    uses = [row.use(masks) for row in rows]
    regions = {use.name: use.region for use in uses if use.region is not None}
    if not regions:
        return gr.update(value=None)
    colours = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(regions)}
    return gr.update(value=overlaid(regions, _size(app, width, height)), color_map=colours)


def _size(app: App, width: int | None, height: int | None) -> Size:
    own = app.studio.composer.family.default_size
    return own if width is None or height is None else Size(width, height)
