"""Write what the code knows into the documents: the table of methods, the words of the world.

`--check` only says whether the documents are up to date.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from compose.fusion import methods
from compose.models.card import read_card
from compose.models.detect import embedded_folder
from compose.world.concepts import shipped

ROOT = Path(__file__).parents[1]


def method_table() -> str:
    """One row a method: name, first sentence of its description, source."""
    lines = ["| method | what it does | source |", "|---|---|---|"]
    for name, method in methods().items():
        first = " ".join((method.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| `{name}` | {first} | [paper]({method.source}) |")
    return "\n".join(lines)


def concept_table() -> str:
    """One row a shipped concept."""
    lines = ["| adapter and trigger | category | say | what it is |", "|---|---|---|---|"]
    for c in shipped():
        say = f"{c.trigger} {c.class_word}".strip()
        lines.append(f"| `{c.trigger}` | {c.category} | {say} | {c.description} |")
    return "\n".join(lines)


def word_list() -> str:
    """Every word that the shipped text encoder was trained on."""
    known = read_card(embedded_folder()).words
    return textwrap.fill(" ".join(w for w in known if w.isalpha()), 100)


SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"methods": method_table},
    "docs/world.md": {"concepts": concept_table, "words": word_list},
}


def updated(text: str, sections: dict[str, Callable[[], str]]) -> str:
    """A document with its generated sections written anew."""
    for name, make in sections.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        before, rest = text.split(start)
        text = before + start + make() + end + rest.split(end, 1)[1]
    return text


def main() -> int:
    """Returns 1 when `--check` finds a document out of date."""
    stale = False
    for name, sections in SECTIONS.items():
        path = ROOT / name
        old = path.read_text()
        new = updated(old, sections)
        stale |= old != new
        if "--check" not in sys.argv[1:]:
            path.write_text(new)
    return int(stale and "--check" in sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
