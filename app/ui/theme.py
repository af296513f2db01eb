"""How the page looks. Fonts are those of the reader's machine: nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

_FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Helvetica", "sans-serif")
_STATIC = Path(__file__).parent / "static"
_MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")


def theme() -> Any:
    """Calm greys, one accent, small radii."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_sm,
        font=_FONTS,
        font_mono=_MONO,
    ).set(
        body_background_fill="*neutral_50",
        block_background_fill="white",
        block_border_width="1px",
        block_label_text_weight="500",
        block_title_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        input_background_fill="*neutral_50",
        input_border_color="*neutral_200",
        input_border_width="1px",
        input_padding="7px 10px",
        block_padding="10px 12px",
        layout_gap="12px",
    )


def css() -> str:
    """The style sheet beside the theme."""
    return (_STATIC / "page.css").read_text()


def script() -> str:
    """What the page does by itself: completes adapter tags in the prompt."""
    return (_STATIC / "complete.js").read_text()
