"""The left side of the page: everything that decides a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from compose.adapters.library import AdapterEntry, AdapterLibrary
from compose.errors import RequestError
from compose.models.family import Family

from .adapter_rows import SLOTS, AdapterRows
from .controls import MethodControls
from .form import MAX_COUNT, Form, Row, method_choices

_OWN = "model's own"


@dataclass(frozen=True)
class Inputs:
    """The components that a `Form` is read from and written to.

    Attributes:
        texts: prompt and negative prompt.
        rows: adapters.
        masks: painted masks, a state of the browser.
        method: the picker.
        fields: controls of all methods.
        settings: width, height, steps, guidance, true_cfg, clip_skip, scheduler, seed, count.
    """

    texts: tuple[Any, ...]
    rows: AdapterRows
    masks: Any
    method: Any
    fields: MethodControls
    settings: tuple[Any, ...]

    @classmethod
    def draw(cls, library: AdapterLibrary, family: Family) -> Inputs:
        """Draw them at this place of the page."""
        masks = gr.State({})
        prompt = gr.Textbox(
            label="Prompt",
            lines=3,
            placeholder="mochi cat on the left and biscuit dog on the right <lora:mochi:1>",
            elem_id="prompt",
        )
        negative = gr.Textbox(
            label="Negative prompt", lines=1, placeholder="what should not show", elem_id="negative"
        )
        rows = AdapterRows.draw(library)
        method = gr.Dropdown(
            choices=method_choices(),
            value="merge",
            label="Method",
            info="how the adapters are combined; x between two takes both at once",
            elem_id="method",
        )
        with gr.Accordion("Settings of the method", open=False):
            fields = MethodControls.draw("merge")
        settings = _settings(family)
        method.change(fields.seen, method, list(fields.groups), show_progress="hidden")
        return cls((prompt, negative), rows, masks, method, fields, settings)

    @property
    def components(self) -> list[Any]:
        """What `read` takes the values of."""
        rows = self.rows
        chosen = [rows.choice, *rows.components, self.masks, self.method]
        return [*self.texts, *chosen, *self.fields.components, *self.settings]

    def read(self, values: Sequence[Any]) -> Form:
        """The form from the values of `components`.

        Raises:
            RequestError: a number that is left out or is none.
        """
        left = list(values)
        prompt, negative, names = (left.pop(0) for _ in range(3))
        rows = [left.pop(0) for _ in self.rows.components]
        masks, method = left.pop(0), left.pop(0)
        fields = [left.pop(0) for _ in self.fields.components]
        width, height, steps, guidance, true_cfg, clip_skip, scheduler, seed, count = left
        return Form(
            prompt=prompt or "",
            negative=negative or "",
            rows=self.rows.read(names or [], rows),
            masks=masks,
            method=method,
            fields=self.fields.read(fields),
            width=_whole("width", width),
            height=_whole("height", height),
            steps=_whole("steps", steps) or 0,
            guidance=guidance,
            true_cfg=true_cfg,
            clip_skip=_whole("clip skip", clip_skip),
            scheduler=None if scheduler in (None, _OWN) else scheduler,
            seed=_whole("seed", seed),
            count=_whole("count", count) or 0,
        )

    def write(self, form: Form, entries: Mapping[str, AdapterEntry]) -> list[Any]:
        """Updates of `written` that show a form.

        Raises:
            RequestError: more adapters than the page has room for.
        """
        if len(form.rows) > SLOTS:
            raise RequestError(
                f"the picture has {len(form.rows)} adapters; the page shows at most {SLOTS}, so use"
                " lora-compose replay"
            )
        return [
            *(form.prompt, form.negative, [row.name for row in form.rows], form.rows),
            *self.rows.write(form.rows, entries),
            *(dict(form.masks), form.method),
            *self.fields.seen(form.method),
            *self.fields.values(form.fields),
            *(form.width, form.height, form.steps, form.guidance, form.true_cfg, form.clip_skip),
            *(form.scheduler or _OWN, str(form.seed), form.count),
        ]

    def written(self, shown: Any) -> list[Any]:
        """What `write` updates; `shown` is the state that remembers which rows are shown."""
        return [
            *(*self.texts, self.rows.choice, shown),
            *self.rows.written,
            *(self.masks, self.method),
            *self.fields.groups,
            *self.fields.components,
            *self.settings,
        ]

    def follow_choice(self, shown: Any, library: AdapterLibrary) -> None:
        """Show a row for every chosen adapter; rows that stay keep what they say."""

        def chosen(names: Sequence[str], before: Sequence[Row], *values: Any) -> list[Any]:
            entries = {entry.name: entry for entry in library.entries()}
            kept = {row.name: row for row in self.rows.read([row.name for row in before], values)}
            rows = tuple(kept.get(name) or _fresh(name, entries) for name in names)
            return [rows, *self.rows.write(rows, entries)]

        self.rows.choice.input(
            chosen,
            [self.rows.choice, shown, *self.rows.components],
            [shown, *self.rows.written],
            show_progress="hidden",
        )


def _fresh(name: str, entries: Mapping[str, AdapterEntry]) -> Row:
    return Row(name, entries[name].default_weight if name in entries else 1.0)


def _whole(what: str, value: Any) -> int | None:
    """A whole number that may be left out.

    Raises:
        RequestError: something else.
    """
    text = str("" if value is None else value).strip()
    if not text:
        return None
    digits = text.removesuffix(".0").removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise RequestError(f"{what} {text!r} was given; expected a whole number")
    return int(text.removesuffix(".0"))


def _settings(family: Family) -> tuple[Any, ...]:
    size, multiple = family.default_size, family.multiple
    with gr.Row():
        side: dict[str, Any] = {"precision": 0, "step": multiple, "minimum": multiple}
        width = gr.Number(size.width, label="Width", min_width=90, elem_id="width", **side)
        height = gr.Number(size.height, label="Height", min_width=90, elem_id="height", **side)
        steps = gr.Number(20, label="Steps", precision=0, minimum=1, maximum=1000, min_width=80)
        guidance = gr.Number(family.guidance, label="Guidance", minimum=0, min_width=90)
    with gr.Row():
        seed = gr.Textbox(
            label="Seed", placeholder="random", max_lines=1, min_width=120, elem_id="seed"
        )
        count = gr.Slider(1, MAX_COUNT, value=1, step=1, label="Pictures", min_width=140)
    with gr.Accordion("More", open=False), gr.Row():
        true_cfg = gr.Number(
            value=None,
            label="True CFG",
            placeholder="none",
            visible=family.distilled,
            min_width=110,
        )
        clip_skip = gr.Number(
            value=None, label="CLIP skip", placeholder=_OWN, precision=0, min_width=110
        )
        scheduler = gr.Dropdown(
            choices=[_OWN, *family.schedulers], value=_OWN, label="Scheduler", min_width=140
        )
    return width, height, steps, guidance, true_cfg, clip_skip, scheduler, seed, count
