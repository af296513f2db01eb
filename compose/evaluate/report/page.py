"""One page of HTML that needs nothing beside it: style and small pictures lie inside, no script."""

from __future__ import annotations

from pathlib import Path

from compose.evaluate.report import sections
from compose.evaluate.report.figures import CEILING, RANDOM
from compose.evaluate.report.html import Html, tag, together
from compose.evaluate.report.pictures import sheet, side_by_side
from compose.evaluate.report.sections import Content
from compose.evaluate.report.words import CORPUS, sign, words

_HERE = Path(__file__).parent
_DRAWN = {
    "combination": "combinations of adapters",
    "case": "prompts; there are too few combinations of adapters to speak of others",
    "picture": "pictures; there are too few prompts to speak of others",
}


def page(content: Content, folder: Path) -> str:
    """The whole page.

    Args:
        content: what it shows.
        folder: of the records; links to pictures are relative to it.
    """
    t = content.table
    title = f"Evaluation: {t.suite}"
    parts = [
        (name, said, body)
        for name, said, body in _sections(content, folder)
        if body  # nothing to show: no heading either
    ]
    links = together([tag("a", name, href=f"#{_anchor(name)}") for name, _, _ in parts])
    blocks = [
        together([tag("h2", name, id=_anchor(name)), *_note(said), body])
        for name, said, body in parts
    ]
    style = Html((_HERE / "style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", style),
    )
    pictures = sum(len(row.records) for row in t.rows)
    lead = (
        f"{pictures} pictures, {len(t.combinations)} prompts,"
        f" {len(set(t.combinations.values()))} combinations of adapters, seeds: {t.seeds}."
    )
    body = tag(
        "main",
        together([tag("h1", title), tag("p", lead, class_="lead"), tag("nav", links), *blocks]),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def _sections(content: Content, folder: Path) -> list[tuple[str, str, Html]]:
    """Title, a sentence, content."""
    t = content.table
    compared = content.comparison
    return [
        ("Result", _result_words(content), sections.headline(content)),
        (
            "What changed",
            "Green and red: the interval of the difference does not hold 0.",
            sections.changes(compared) if compared is not None else Html(""),
        ),
        *_tables(content),
        (
            "Side by side",
            "The same prompt and seed in every row, drawn, not picked. Below each picture:"
            f" {words(t.headline).title}. A picture leads to its file.",
            side_by_side(t, folder),
        ),
        (
            "Pictures",
            f"Best, median and worst of each row by {words(t.headline).title} (the number), then by"
            " the other measures. Equals are in a drawn order, the same for every row.",
            together([sheet(t, row, folder) for row in t.rows]),
        ),
        ("What not to trust", "", _caveats()),
        ("How it was made", "", sections.making(content)),
    ]


def _tables(content: Content) -> list[tuple[str, str, Html]]:
    """The sections of figures."""
    t = content.table
    kinds = list(dict.fromkeys(m.partition("/")[0] for m in t.measures if "/" in m))
    measures = [sections.measure_table(content, m) for m in (*t.plain, *CORPUS)]
    adapters = [sections.adapter_table(content, kind) for kind in kinds]
    return [
        (
            "Quality and cost",
            f"{'Up' if sign(t.headline) > 0 else 'Down'} and to the left is better. The dashed line"
            " joins methods that no cheaper one reaches; controls are hollow. Reused rows are not"
            " counted.",
            sections.plot(content),
        ),
        (
            "By kind of case",
            f"{words(t.headline).title}.",
            sections.by_part(content) if len(t.parts) > 1 else Html(""),
        ),
        (
            "Measures",
            "Means of all measures; fold one open for its intervals and differences.",
            together([sections.glance(content), *measures, *adapters]),
        ),
        (
            "Retention",
            f"Each mean as a share of the mean of the row {CEILING}, where each adapter acts alone"
            " on the same prompts and seeds. Above 1 is possible.",
            sections.retention(content) if content.retentions else Html(""),
        ),
        ("Cost", "Means per picture, as counted by the engine.", sections.costs(content)),
    ]


def _result_words(content: Content) -> str:
    t = content.table
    said = words(t.headline)
    drawn = f"Intervals: 95 %, bootstrap over {_DRAWN[t.units]}."
    shown = (
        f' "Transfer" is shown where the interval against the row {RANDOM} is above 0.'
        if content.transfers
        else f" There is no row {RANDOM}, so no method may claim transfer."
    )
    lacks = any(cost["pictures"] < cost["asked"] for cost in content.costs)
    warning = (
        " Rows with fewer pictures than others did not see every case: their means are of other"
        " cases, differences are of the cases in common."
        if lacks
        else ""
    )
    return f"{said.meaning or said.title} {drawn}{shown}{warning}"


def _note(said: str) -> list[Html]:
    return [tag("p", said, class_="note")] if said else []


def _caveats() -> Html:
    text = (_HERE / "caveats.txt").read_text(encoding="utf-8")
    items = [tag("li", part.replace("\n", " ")) for part in text.strip().split("\n\n")]
    return tag("ul", together(items), class_="caveats")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
