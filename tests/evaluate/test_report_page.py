"""The page: well-formed, whole, and saying the same as report.json."""

from __future__ import annotations

import base64
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from compose.evaluate import report
from compose.evaluate.bootstrap import Interval
from compose.evaluate.report import write_report
from compose.evaluate.report.html import Html, tag, together
from compose.evaluate.report.pictures import choose
from compose.evaluate.report.plot import Point, frontier, scatter
from compose.evaluate.report.table import make_table
from tests.evaluate.planted import PAIRS, ROWS, TRIPLES, record, records, write

VOID = frozenset({"meta", "img", "br"})


class Page(HTMLParser):
    """Reads a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)
        if name == "table":
            self.tables.append([])
        if name == "tr":
            self.tables[-1].append([])
        if name in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += f" {data}"

    def all(self, name: str, attribute: str) -> list[str]:
        """Values of an attribute of all elements of a name."""
        return [
            found[attribute] or "" for tag, found in self.tags if tag == name and attribute in found
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A report with everything in it, and its page."""
    folder = tmp_path_factory.mktemp("whole")
    groups = {"pairs": PAIRS, "triples": TRIPLES}
    before = write(folder / "before", records(ROWS, groups=groups))
    write_report(before)
    lower = {**ROWS, "regional": 0.2}
    after = write(folder / "after & <now>", records(lower, groups=groups))
    data = write_report(after, compare=before / "report.json")
    return after, data, Page((after / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(whole) -> None:
    folder, _, page = whole
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert page.all("html", "lang") == ["en"] and "utf-8" in page.all("meta", "charset")


def test_every_picture_is_inside_and_every_link_leads_somewhere(whole) -> None:
    folder, _, page = whole
    ids = {found["id"] for _, found in page.tags if "id" in found}
    links = page.all("a", "href")
    assert any(link.startswith("#") for link in links)
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (folder / unquote(urlsplit(link).path)).is_file()
    sources = page.all("img", "src")
    assert len(sources) >= len(ROWS) * 12
    for source in sources:
        head, _, data = source.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (32, 32)


def test_the_first_table_says_what_the_json_says(whole) -> None:
    _, data, page = whole
    table = page.tables[0]
    head = [cell.strip() for cell in table[0]]
    found = {row[0].strip(): dict(zip(head, row, strict=True)) for row in table[1:]}
    assert set(found) == set(ROWS)
    title = "all concepts right, in place"
    differences = {(d["method"], d["against"]): d for d in data["differences"]
                   if d["metric"] == "all_primary" and d["adapters"] is None}  # fmt: skip
    claims = {c["method"]: c["shown"] for c in data["transfer"]}
    for row in data["rows"]:
        if row["metric"] != "all_primary" or row["adapters"] is not None:
            continue
        cells = found[row["method"]]
        said = f"{row['value']:.3f} {row['low']:.3f} to {row['high']:.3f}"
        assert " ".join(cells[title].split()) == said and cells["pictures"].split() == ["80"]
        for against in ("merge", "random"):
            d = differences.get((row["method"], against))
            wanted = "" if d is None else f"{d['value']:+.3f} {d['low']:+.3f} to {d['high']:+.3f}"
            assert " ".join(cells[f"against {against}"].split()) == wanted
        shown = {True: "shown", False: "not shown", None: ""}[claims.get(row["method"])]
        assert cells["transfer"].strip() == shown
    methods = [row for row in found if row not in ("alone", "random")]
    values = [float(found[m][title].split()[0]) for m in methods]
    assert list(found)[-2:] == ["alone", "random"] and values == sorted(values, reverse=True)


def test_every_figure_stands_on_the_page(whole) -> None:
    _, data, page = whole
    cells = {" ".join(cell.split()) for table in page.tables for row in table for cell in row}
    for row in data["rows"]:
        said = f"{row['value']:.3f} {row['low']:.3f} to {row['high']:.3f}"
        if row["adapters"] is None or row["metric"] == "all_primary":
            assert said in cells, row
    for figure in data["retention"]:
        assert any(cell.startswith(f"{figure['value']:.3f} ") for cell in cells)


def test_the_page_tells_how_it_was_made_and_what_changed(whole) -> None:
    _, data, page = whole
    text = " ".join(page.texts)
    for said in (*data["commands"], *data["versions"].values(), "What not to trust"):
        assert said in text
    assert "What changed" in text and "worse" in text
    assert "the judge is a small network" in text.lower()


def test_names_from_records_are_never_markup(tmp_path) -> None:
    evil = "<script>alert('x')</script>"
    made = [
        record(evil, f'pairs/"{evil}"/{i}', i, {evil: 1.0}, prompt=f'" onload="{evil}', suite=evil,
               adapters=[evil, str(i)], cost={"rows": 40.0})
        for i in range(6)
    ]  # fmt: skip
    made = [replace(one, image=f"a b/{i}#?.png") for i, one in enumerate(made)]
    write_report(write(tmp_path, made), command=[evil])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in {name for name, _ in page.tags}
    assert not any("onload" in found for _, found in page.tags)
    links = [link for link in page.all("a", "href") if not link.startswith("#")]
    assert links and all((tmp_path / unquote(urlsplit(link).path)).is_file() for link in links)


def test_missing_and_broken_pictures_are_named(tmp_path) -> None:
    made = records({"merge": 0.5}, groups={"pairs": PAIRS[:1]}, seeds=2)
    write(tmp_path, made)
    (tmp_path / made[0].image).unlink()
    (tmp_path / made[1].image).write_bytes(b"no picture")
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.all("img", "src") == []
    assert sum(f"no picture at {made[0].image}" in text for text in page.texts) >= 1
    assert sum(f"no picture at {made[1].image}" in text for text in page.texts) >= 1


def test_records_without_costs_or_judgement_make_a_page(tmp_path) -> None:
    made = [record("merge", "a", s, {"all_primary": None if s else 1.0}) for s in range(3)]
    made.append(record("none", "a", 0, {"all_primary": None}))
    write_report(write(tmp_path, made))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Quality and cost" not in page.texts and "Retention" not in page.texts
    assert "not judged" in page.texts and "unknown" in page.texts
    assert {row[0].strip() for row in page.tables[0][1:]} == {"merge", "none"}


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (5, (2, 1, 2)), (40, (4, 4, 4))],
)
def test_best_median_and_worst_are_different_pictures(count, sizes) -> None:
    made = [record("merge", f"c{i}", 0, {"x": float(i)}) for i in range(count)]
    table = make_table(made)
    chosen = choose(table, table.rows[0])
    assert (len(chosen.best), len(chosen.median), len(chosen.worst)) == sizes
    values = table.rows[0].columns["x"]
    numbers = (*chosen.best, *chosen.median, *chosen.worst)
    assert len(set(numbers)) == len(numbers)
    assert values[chosen.best[0]] == count - 1
    if count == 40:
        assert sorted(values[list(chosen.median)]) == [18, 19, 20, 21]
        assert [values[i] for i in chosen.worst] == [0, 1, 2, 3]


def test_of_bleeding_the_least_is_best() -> None:
    made = [record("merge", f"c{i}", 0, {"bleed": float(i % 2)}) for i in range(9)]
    table = make_table(made)
    chosen = choose(table, table.rows[0])
    assert all(table.rows[0].columns["bleed"][i] == 0 for i in chosen.best)


def test_plot_shows_every_row_and_names_do_not_touch() -> None:
    points = [
        Point(f"row{i}", i > 6, 40.0 * (1 + i % 3), Interval(v := i / 100, v, v + 0.1, 9, 9))
        for i in range(12)
    ]
    page = Page(f"<div>{scatter(points, 'quality')}</div>")
    names = [text for text in page.texts if text.startswith("row") and ":" not in text]
    assert sorted(names) == sorted(p.name for p in points)
    places = [
        float(found["y"])
        for name, found in page.tags
        if name == "text" and found.get("class") in ("method", "control")
    ]
    gaps = [b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)]
    assert len(places) == 12 and min(gaps) >= 14 and max(places) < 440
    assert scatter([], "quality") == ""


def test_frontier_holds_what_nothing_cheaper_reaches() -> None:
    def point(name: str, cost: float, value: float, control: bool = False) -> Point:
        return Point(name, control, cost, Interval(value, value, value, 1, 2))

    points = [
        point("merge", 40, 0.1), point("tara", 40, 0.5), point("composite", 80, 0.2),
        point("clora", 120, 0.7), point("alone", 80, 0.9, control=True),
    ]  # fmt: skip
    assert [p.name for p in frontier(points)] == ["tara", "clora"]
    assert [p.name for p in frontier(points, less=True)] == ["merge"]


def test_markup_is_escaped_once() -> None:
    inner = tag("b", "a < b")
    assert inner == "<b>a &lt; b</b>"
    assert tag("p", inner, "&", class_="x", data_n=0.5) == (
        '<p class="x" data-n="0.5"><b>a &lt; b</b>&amp;</p>'
    )
    assert together([inner, Html("<i></i>")], "") == "<b>a &lt; b</b><i></i>"
    assert tag("img", alt='"') == '<img alt="&quot;">' and tag("line", x1=1) == '<line x1="1"/>'


def test_what_the_page_is_made_of_is_installed_with_it() -> None:
    root = Path(report.__file__).parents[3]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["compose"]
    parts = [p for p in Path(report.__file__).parent.iterdir() if p.suffix not in (".py", "")]
    assert {p.name for p in parts} == {"style.css", "caveats.txt"}
    for path in parts:
        assert any(path in set((root / "compose").glob(pattern)) for pattern in patterns)


def test_style_has_dark_text_on_light(whole) -> None:
    folder, _, _ = whole
    text = (folder / "report.html").read_text(encoding="utf-8")
    colours = {
        name: re.search(rf"--{name}: #([0-9a-f]{{6}})", text)[1] for name in ("ink", "paper")
    }
    ink, paper = (sum(bytes.fromhex(colours[name])) for name in ("ink", "paper"))
    assert ink < 150 and paper > 720
