"""Elements of HTML and SVG; text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_EMPTY = frozenset({"img", "meta", "br", "line", "circle", "rect", "path"})


class Html(str):
    """Finished markup."""

    __slots__ = ()


def together(parts: Iterable[Html], between: str = "\n") -> Html:
    """One after another."""
    return Html(between.join(parts))


def tag(name: str, /, *inner: str, **attributes: str | float) -> Html:
    """An element.

    Args:
        name: of the element.
        inner: what it holds; plain text is escaped, `Html` is taken as it is.
        attributes: an underscore at the end of a name falls away (``class_``), others become
            hyphens (``text_anchor``).
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for key, value in attributes.items()
    )
    if name in _EMPTY:
        return Html(f"<{name}{said}>" if name in ("img", "meta", "br") else f"<{name}{said}/>")
    content = "".join(part if isinstance(part, Html) else escape(part) for part in inner)
    return Html(f"<{name}{said}>{content}</{name}>")


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def table(head: list[str], body: list[list[str]], classes: list[str] | None = None) -> Html:
    """A table that scrolls sideways where it is too wide.

    Args:
        head: titles of the columns.
        body: cells of each row; the first one names the row.
        classes: of each row.
    """
    kinds = classes or [""] * len(body)
    lines = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", c) for c in row[1:]), class_=kind)
        for row, kind in zip(body, kinds, strict=True)
    ]
    titles = tag("tr", *(tag("th", title, scope="col") for title in head))
    return tag(
        "div",
        tag("table", tag("thead", titles), tag("tbody", together(lines))),
        class_="wide",
    )
