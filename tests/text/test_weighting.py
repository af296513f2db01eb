"""Weights and BREAKs in a prompt: the grammar, and that it takes any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import RequestError
from compose.prompt import parse_prompt
from compose.request import Request
from compose.text.weighting import parse_weights, plain_text


def read(prompt: str) -> list[list[tuple[str, float]]]:
    return [[(f.text, f.weight) for f in s.fragments] for s in parse_weights(prompt)]


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("  a  cat , ", [("  a  cat , ", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("a [red] cat", [("a ", 1.0), ("red", 1 / 1.1), (" cat", 1.0)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red:-.5)", [("red", -0.5)]),
        ("(red : 1.5 )", [("red ", 1.5)]),
        ("(red:0)", [("red", 0.0)]),
        ("((red))", [("red", 1.1**2)]),
        ("([red])", [("red", 1.0)]),
        ("(a (b:2) [c]:0.5)", [("a ", 0.5), ("b", 1.0), (" ", 0.5), ("c", 0.5 / 1.1)]),
        ("((red:1.2) cat:0.5)", [("red", 0.6), (" cat", 0.5)]),
        (r"a \(red\) cat", [("a ", 1.0), ("(red", 1.0), (") cat", 1.0)]),
        (r"(\(red\):1.2)", [("(red", 1.2), (")", 1.2)]),
        (r"\[a\]", [("[a", 1.0), ("]", 1.0)]),
        (r"C:\cat \\ \n", [(r"C:\cat \\ \n", 1.0)]),
        ("(note: a cat)", [("note: a cat", 1.1)]),
        ("(cat:3pm)", [("cat:3pm", 1.1)]),
        ("(cat:)", [("cat:", 1.1)]),
        ("a:1.2 cat", [("a:1.2 cat", 1.0)]),
        ("(():1.2)(cat)[]", [("cat", 1.1)]),
    ],
)
def test_brackets(prompt: str, fragments: list[tuple[str, float]]) -> None:
    assert read(prompt) == [[(text, pytest.approx(weight)) for text, weight in fragments]]


@pytest.mark.parametrize(
    "prompt",
    ["a (cat", "a cat)", "a ) b ( c", "[a", "a]", "(a]", "cat :)", "a cat:1.2)", "[a:1.2)"],
)
def test_a_bracket_without_partner_is_text(prompt: str) -> None:
    assert read(prompt) == [[(prompt, 1.0)]]


def test_an_unpaired_bracket_inside_a_pair_is_text() -> None:
    assert read("(a [b) c]") == [[("a [b", 1.1), (" c]", 1.0)]]
    assert read("((a)") == [[("(", 1.0), ("a", 1.1)]]


def test_break_starts_a_section_also_inside_brackets() -> None:
    assert read("a BREAK b") == [[("a ", 1.0)], [(" b", 1.0)]]
    assert read("(a BREAK b:1.2)BREAK") == [[("a ", 1.2)], [(" b", 1.2)]]
    assert read("BREAK BREAK a") == [[(" a", 1.0)]]
    assert read("BREAK") == [[]]
    for word in ("break", "BREAKS", "aBREAK", "BREAK_1"):
        assert read(f"a {word} b") == [[(f"a {word} b", 1.0)]]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a (cat:1,3)", "'1,3'"),
        ("a (cat:1.2.3)", "'1.2.3'"),
        ("a (cat:.)", "'.'"),
        ("a (cat:nan)", "'nan'"),
        ("a (cat:-INF)", "'-INF'"),
        ("a (cat:1e999)", "'1e999'"),
        ("a (cat:5.1)", "weight 5.1"),
        ("a (at 10:30)", "weight 30"),
        ("((cat:3):2)", "weight 6"),
        ("(" * 17 + "cat" + ")" * 17, "expected -5 to 5"),
        ("(" * 9999 + "cat" + ")" * 9999, "expected -5 to 5"),
        ("a [cat:dog:0.5]", "over the steps"),
        ("a [cat:5]", "over the steps"),
        ("a [cat|dog]", "over the steps"),
    ],
)
def test_what_makes_no_sense_is_refused(prompt: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_weights(prompt)
    assert words in str(caught.value) and "\\(" in str(caught.value)
    for asked in ({"prompt": prompt}, {"prompt": "a", "negative": prompt}):
        with pytest.raises(RequestError):
            Request(**asked)


def test_only_the_product_of_the_brackets_has_a_range() -> None:
    assert read("((cat:0.1):20)") == [[("cat", 2.0)]]
    assert read("(:7)") == [[]]


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("a (red cat <lora:mochi:0.8>:1.2)", [("a ", 1.0), ("red cat", 1.2)]),
        ("(<lora:mochi:0.8> red cat)", [("red cat", 1.1)]),
        ("a (red <lora:mochi (v2):0.8>)", [("a ", 1.0), ("red", 1.1)]),
        ("(<lora:mochi:0.8>:1.2) cat", [(" cat", 1.0)]),
    ],
)
def test_tags_of_adapters_are_taken_out_first(prompt: str, fragments: list[object]) -> None:
    assert read(parse_prompt(prompt).text) == [fragments]


SIGNS = re.compile(r"(\s*(BREAK|\\$|[()\[\]]|:\s*[+\-0-9.,eE]+\s*(?=[)\]])))*\s*")


@given(st.text(st.sampled_from("ab ,.:()[]\\123|-BREAK") | st.characters()) | st.text())
def test_any_text_is_parsed_or_refused(prompt: str) -> None:
    try:
        sections = parse_weights(prompt)
    except RequestError:
        return
    fragments = [f for s in sections for f in s.fragments]
    end = 0
    for f in fragments:
        assert end <= f.start < f.end and f.text == prompt[f.start : f.end]
        assert SIGNS.fullmatch(prompt[end : f.start])
        assert not prompt[end : f.start].endswith("\\") or f.text[0] in "()[]"
        assert abs(f.weight) <= 5 or not f.text.strip()
        end = f.end
    assert SIGNS.fullmatch(prompt[end:])
    for s in sections:
        assert [prompt[i] for i in s.written] == list(s.text)


words = st.text(st.characters(exclude_characters="()[]\\:|BREAK"), min_size=1)


@given(words)
def test_a_text_without_signs_is_itself(prompt: str) -> None:
    (section,) = parse_weights(prompt)
    assert [(f.text, f.weight, f.start) for f in section.fragments] == [(prompt, 1.0, 0)]
    assert plain_text(prompt) == prompt


Tree = list["str | tuple[str, float, Tree]"]


def trees(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    weights = st.floats(-1, 1).map(lambda w: round(w, 3))
    pair = st.tuples(st.sampled_from("([:"), weights, children)
    return st.lists(words | pair, max_size=4)


def render(tree: Tree) -> str:
    out = ""
    for part in tree:
        if isinstance(part, str):
            out += part
        else:
            kind, weight, inner = part
            end = {"(": ")", "[": "]", ":": f":{weight})"}[kind]
            out += ("[" if kind == "[" else "(") + render(inner) + end
    return out


def letters(tree: Tree, around: float = 1.0) -> list[tuple[str, float]]:
    """Every character with its weight."""
    out = []
    for part in tree:
        if isinstance(part, str):
            out += [(letter, around) for letter in part]
        else:
            kind, weight, inner = part
            out += letters(inner, around * {"(": 1.1, "[": 1 / 1.1, ":": weight}[kind])
    return out


@given(st.recursive(st.lists(words, max_size=2), trees, max_leaves=8))
def test_nested_brackets_multiply(tree: Tree) -> None:
    (section,) = parse_weights(render(tree))
    got = list(zip(section.text, section.weights, strict=True))
    assert got == [(letter, pytest.approx(weight)) for letter, weight in letters(tree)]
