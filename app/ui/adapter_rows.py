"""Adapters on the page: a choice from the library and, for each, its weight, place and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from compose.adapters.library import AdapterEntry, AdapterLibrary
from compose.errors import RequestError

from .form import PAINTED, Row

SLOTS = 8
"""Most adapters that the page shows; tags in the prompt can name more."""
PLACES = (
    *(("everywhere", ""), ("left half", "0,0,0.5,1"), ("right half", "0.5,0,1,1")),
    *(("top half", "0,0,1,0.5"), ("bottom half", "0,0.5,1,1"), ("painted mask", PAINTED)),
)
_EACH = 4  # components of a slot


@dataclass(frozen=True)
class AdapterRows:
    """A choice of adapters and `SLOTS` rows, of which as many are seen as are chosen.

    Attributes:
        choice: names of the chosen adapters.
        groups, heads: of each row.
        components: weight, text-encoder weight, region, words of the first row, then of the next.
    """

    choice: Any
    groups: tuple[Any, ...]
    heads: tuple[Any, ...]
    components: tuple[Any, ...]

    @classmethod
    def draw(cls, library: AdapterLibrary) -> AdapterRows:
        """Draw them at this place of the page."""
        choice = gr.Dropdown(
            choices=choices(library.entries()),
            value=[],
            multiselect=True,
            max_choices=SLOTS,
            label="Adapters",
            info="from the library; search by name, kind or trigger",
            elem_id="adapters",
        )
        groups, heads, components = [], [], []
        for number in range(SLOTS):
            with gr.Group(visible=False, elem_classes="adapter", elem_id=f"slot-{number}") as group:
                heads.append(gr.HTML(elem_classes="adapter-head"))
                with gr.Row(equal_height=True):
                    components += _slot()
            groups.append(group)
        return cls(choice, tuple(groups), tuple(heads), tuple(components))

    def read(self, names: Sequence[str], values: Sequence[Any]) -> tuple[Row, ...]:
        """The rows of chosen adapters from the values of `components`.

        Raises:
            RequestError: a weight that is left out.
        """
        rows = []
        for number, name in enumerate(names):
            weight, text_weight, region, words = values[number * _EACH : (number + 1) * _EACH]
            if weight is None:
                raise RequestError(
                    f"adapter {name} has no weight; expected a number such as 1, or take it out"
                )
            rows.append(Row(name, weight, text_weight, region or "", words or ""))
        return tuple(rows)

    def write(self, rows: Sequence[Row], entries: Mapping[str, AdapterEntry]) -> list[Any]:
        """Updates of `groups`, `heads` and `components` that show some rows."""
        seen = [gr.update(visible=number < len(rows)) for number in range(SLOTS)]
        heads = [_head(row.name, entries.get(row.name)) for row in rows]
        values: list[Any] = []
        for row in [*rows, *[Row("")] * (SLOTS - len(rows))]:
            values += [row.weight, row.text_weight, row.region, row.words]
        return [*seen, *heads, *[""] * (SLOTS - len(rows)), *values]

    @property
    def written(self) -> list[Any]:
        """What `write` updates."""
        return [*self.groups, *self.heads, *self.components]


def _slot() -> list[Any]:
    return [
        gr.Slider(-2, 2, value=1.0, step=0.05, label="weight", scale=3, min_width=150),
        gr.Number(label="in text", placeholder="same", value=None, scale=1, min_width=90),
        gr.Dropdown(
            choices=list(PLACES),
            value="",
            allow_custom_value=True,
            label="region",
            scale=2,
            min_width=140,
        ),
        gr.Textbox(
            label="called by", placeholder="its trigger", max_lines=1, scale=2, min_width=110
        ),
    ]


def choices(entries: Sequence[AdapterEntry]) -> list[tuple[str, str]]:
    """Labels and names for a choice of adapters; labels can be searched."""
    return [(" · ".join(part for part in _words(e) if part), e.name) for e in entries]


def _words(entry: AdapterEntry) -> tuple[str, ...]:
    triggers = [t for t in entry.triggers[:2] if t != entry.name]
    return (entry.name, entry.category, ", ".join(triggers))


def _head(name: str, entry: AdapterEntry | None) -> str:
    """Name, kind and triggers of an adapter."""
    if entry is None:
        return f"<b>{escape(name)}</b>"
    triggers = " ".join(f"<code>{escape(t)}</code>" for t in entry.triggers[:4])
    said = f"<span class='kind {escape(entry.category)}'>{escape(entry.category)}</span>"
    return f"<b>{escape(name)}</b> {said} {triggers}"
