"""The tab that shows the adapter library."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from compose.adapters.bases import model_evidence, shown_bases
from compose.adapters.library import AdapterEntry
from compose.adapters.tables import module_shapes

from .app import App

_SIDE = 256  # of a preview, in pixels
_LARGEST = 16 * 2**20  # bytes of a picture that is previewed
_ENDINGS = ("preview.png", "png", "jpg", "jpeg", "webp")
_ANY = "all"


def draw(app: App) -> None:
    """Draw the tab at this place of the page."""
    fitting = model_bases(app)
    entries = app.library.entries()
    kinds, bases = ({_ANY, *values} for values in _values(entries))
    with gr.Row():
        text = gr.Textbox(label="Search", placeholder="name, trigger, tag", scale=3)
        kind = gr.Dropdown(sorted(kinds, key=_first), value=_ANY, label="Kind")
        base = gr.Dropdown(sorted(bases, key=_first), value=_ANY, label="Base")
    wall = gr.HTML(lambda: cards(app.library.entries(), fitting) + _broken(app), elem_id="library")

    def look(words: str, kind: str, base: str) -> str:
        found = [e for e in app.library.entries() if matches(e, words, kind, base)]
        return cards(found, fitting)

    for component in (text, kind, base):
        component.change(
            look, [text, kind, base], wall, show_progress="hidden", api_visibility="private"
        )


def model_bases(app: App) -> frozenset[str]:
    """Names of the bases whose adapters fit the model; empty when that is not known."""
    parts = app.studio.composer.family.components
    shapes = {
        component: {path: found.shape for path, found in module_shapes(model).items()}
        for component, model in parts.items()
    }
    return frozenset(shown_bases(model_evidence(shapes)))


def matches(entry: AdapterEntry, words: str, kind: str, base: str) -> bool:
    """Whether an adapter has all words in its name, triggers, tags or description, and the kind and
    base that are asked for.
    """
    said = " ".join((entry.name, *entry.triggers, *entry.tags, entry.description)).casefold()
    return (
        all(word in said for word in words.casefold().split())
        and kind in (_ANY, entry.category)
        and base in (_ANY, entry.base or "unknown")
    )


def cards(entries: Sequence[AdapterEntry], fitting: Collection[str]) -> str:
    """Adapters as HTML; everything that a file says is escaped."""
    if not entries:
        return "<p class='status calm'>no adapter is like that</p>"
    return f"<div class='cards'>{''.join(_card(entry, fitting) for entry in entries)}</div>"


def preview_of(entry: AdapterEntry) -> Path | None:
    """The picture that lies beside an adapter, as downloaders put it there."""
    stem = entry.path.name.removesuffix(".safetensors")
    for ending in _ENDINGS:
        path = entry.path.parent / f"{stem}.{ending}"
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
            return path
    return None


def _card(entry: AdapterEntry, fitting: Collection[str]) -> str:
    triggers = " ".join(f"<code>{escape(t)}</code>" for t in entry.triggers[:5])
    misfit = ""
    if fitting and entry.base and entry.base not in fitting:
        made, here = escape(entry.base), escape(" or ".join(sorted(fitting)))
        misfit = f"<p class='misfit'>made for {made}; the model is {here}</p>"
    about = f"<p>{escape(entry.description[:160])}</p>" if entry.description else ""
    facts = f"{escape(entry.base or 'base unknown')} · rank {entry.rank} · {entry.sites} layers"
    return (
        f"<div class='card'><div class='shot'>{_shot(entry)}</div><div class='said'>"
        f"<b>{escape(entry.name)}</b> <span class='kind'>{escape(entry.category)}</span>"
        f"<p>{triggers}</p>{about}{misfit}<p class='facts'>{facts} · weight"
        f" {entry.default_weight:g}</p></div></div>"
    )


def _shot(entry: AdapterEntry) -> str:
    path = preview_of(entry)
    if path is None:
        return escape(entry.name[:1].upper())
    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as picture:
            picture.thumbnail((_SIDE, _SIDE))
            out = io.BytesIO()
            picture.convert("RGB").save(out, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return escape(entry.name[:1].upper())
    data = base64.b64encode(out.getvalue()).decode()
    return f"<img alt='' src='data:image/png;base64,{data}'>"


def _broken(app: App) -> str:
    count = len(app.library.broken)
    if not count:
        return ""
    files = "1 file is" if count == 1 else f"{count} files are"
    told = f"{files} left out; lora-compose adapters list says why"
    return f"<div class='status'><div class='warning'>{told}</div></div>"


def _values(entries: Sequence[AdapterEntry]) -> tuple[set[str], set[str]]:
    return {e.category for e in entries}, {e.base or "unknown" for e in entries}


def _first(value: Any) -> tuple[bool, str]:
    return value != _ANY, str(value)
