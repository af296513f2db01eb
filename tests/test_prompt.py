"""Adapter tags in prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import RequestError
from compose.prompt import parse_prompt, read_number, refuse_tags, tags
from compose.request import AdapterUse


@pytest.mark.parametrize(
    ("tag", "weight", "text_weight"),
    [
        ("<lora:mochi>", 1.0, None),
        ("<lora:mochi:0.8>", 0.8, None),
        ("<lora:mochi:.5>", 0.5, None),
        ("<lora:mochi:-1>", -1.0, None),
        ("<lora:mochi:0.3:0.8>", 0.8, 0.3),
        ("<lora:mochi:0.8:0.8>", 0.8, None),
        ("<lora:mochi:te=0.3>", 0.3, None),
        ("<lora:mochi:unet=0.3>", 0.3, 1.0),
        ("<lora:mochi:te=0.3:unet=0.8>", 0.8, 0.3),
        ("<lora:mochi:0.5:unet=0.8>", 0.8, 0.5),
        ("<lora:mochi:0.5:0.6:te=0.1>", 0.6, 0.1),
        ("<lora: mochi : 0.8 >", 0.8, None),
        ("<LORA:mochi:1e-1>", 0.1, None),
    ],
)
def test_weights_of_a_tag(tag: str, weight: float, text_weight: float | None) -> None:
    found = parse_prompt(f"a cat {tag}")
    assert found.text == "a cat"
    assert found.adapters == (AdapterUse("mochi", weight, text_weight),)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a cat <lora:a:1>", "a cat"),
        ("<lora:a:1> a cat", "a cat"),
        ("<lora:a:1>, a cat", "a cat"),
        ("a cat, <lora:a:1>", "a cat"),
        ("a cat, <lora:a:1>, beach", "a cat, beach"),
        ("a cat <lora:a:1>, beach", "a cat, beach"),
        ("a <lora:a:1> cat", "a cat"),
        ("a<lora:a:1>cat", "a cat"),
        ("a cat <lora:a:1> <lora:b:1> dog", "a cat dog"),
        ("a cat,<lora:a:1>,<lora:b:1>,dog", "a cat,dog"),
        ("a cat <lora:a:1>.", "a cat."),
        ("<lora:a:1>", ""),
    ],
)
def test_the_gap_closes_up(prompt: str, text: str) -> None:
    assert parse_prompt(prompt).text == text


@pytest.mark.parametrize("text", ["", "a  cat , ", "2 < 3 > 1", "<v1> cat", "a <b> c", "x: y"])
def test_a_prompt_without_tags_stays_as_it_was(text: str) -> None:
    found = parse_prompt(text)
    assert found.text == text and found.adapters == ()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("<lora:>", "names no adapter"),
        ("<lora::1>", "names no adapter"),
        ("<lora:a:x>", "'x'"),
        ("<lora:a:>", "''"),
        ("<lora:a:nan>", "finite"),
        ("<lora:a:te=inf>", "finite"),
        ("<lora:a:1:1:4>", "dyn"),
        ("<lora:a:dyn=4>", "dyn"),
        ("<lora:a:1:lbw=1,0,0>", "lbw"),
        ("<lora:a:1:start=3>", "start"),
        ("<lora:a:1:stop=3>", "stop"),
        ("<lora:a:0.5@0,1@0.2>", "over the steps"),
        ("<lora:a:te=1:te=2>", "te twice"),
        ("<lora:a:colour=red>", "'colour'"),
        ("<lora:a:1> and <lora:a:0.5>", "2 tags"),
        ("<lora:a:1", "not closed"),
        ("< lora:a:1", "not closed"),
        ("<lora:b:1> <lora:a:1", "not closed"),
        ("<hypernet:a:1>", "hypernet"),
        ("<region:0,0,1,1>", "region"),
    ],
)
def test_what_is_not_understood_is_refused(prompt: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_prompt(f"a cat {prompt}")
    assert words in str(caught.value)


def test_tags_belong_to_the_prompt() -> None:
    refuse_tags("fog, 2 < 3", "the negative prompt")
    with pytest.raises(RequestError, match="the negative prompt"):
        refuse_tags("fog <lora:a:1>", "the negative prompt")


@pytest.mark.parametrize("text", ["", "one", "1_0", "0x1", "1,5", "--1", "1e9999", "\u0661"])
def test_no_number(text: str) -> None:
    assert read_number(text) is None


names = st.text(st.characters(exclude_characters="<>:\0", exclude_categories=["Cs", "C", "Z"]))
weights = st.floats(-10, 10)
uses = st.builds(AdapterUse, names.filter(bool), weights, st.none() | weights)


@given(st.lists(uses, unique_by=lambda use: use.name, max_size=4))
def test_tags_read_back_as_they_were(adapters: list[AdapterUse]) -> None:
    found = parse_prompt("a cat " + tags(adapters)).adapters
    assert [(a.name, a.weight, a.text_strength) for a in found] == [
        (a.name, a.weight, a.text_strength) for a in adapters
    ]


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_prompt(text)
    except RequestError:
        return
    assert "<lora:" not in found.text.lower()
    assert found.adapters or found.text == text
