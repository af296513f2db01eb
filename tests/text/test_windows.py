"""How prompts are cut into windows, and the ids that an encoder gets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.errors import ShapeError
from compose.text.pieces import read_pieces
from compose.text.positions import find
from compose.text.weighting import parse_weights
from compose.text.windows import beyond, truncated, windowed, windows_needed
from tests.tiny import clip_tokenizer, tiny_pipeline
from tests.tiny_t5 import t5_tokenizer

CLIP, T5 = clip_tokenizer(pad_token="!"), t5_tokenizer()


def test_plain_prompts_have_the_ids_of_the_stock_pipeline() -> None:
    prompts = ["a red cat, a dog", "", "mochi  CAT (xyz 3] é 日本", "cat " * 75]
    for tokenizer, length in ((CLIP, 77), (clip_tokenizer(), 77), (T5, 256)):
        stock = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt")
        for windows in (truncated(prompts, tokenizer, length), windowed(prompts[:3], tokenizer)):
            if windows.frame.length == length:
                rows = len(windows.rows)
                assert torch.equal(windows.ids(0), stock.input_ids[:rows])
                assert torch.equal(windows.mask(0), stock.attention_mask[:rows])


def test_a_prompt_that_is_too_long_loses_what_the_stock_pipeline_loses() -> None:
    prompt = "(cat, :1.2)" * 20 + "(dog:0.5) " * 60
    plain = "cat, " * 20 + "dog " * 60
    for tokenizer, length in ((CLIP, 77), (T5, 32)):
        stock = tokenizer(
            plain, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        assert torch.equal(truncated([prompt], tokenizer, length).ids(0), stock.input_ids)
    assert beyond(prompt, CLIP).split() == ["dog"] * 25
    assert beyond("cat " * 75, CLIP) == ""
    assert beyond("a BREAK " + "cat " * 74 + "BREAK (dog:1.2) [cat", CLIP) == "dog [cat"


def test_text_in_lower_case_is_where_it_was_written() -> None:
    """BREAK stays a sign; of all letters one has a lower case of two characters, and stays one."""
    prompt, plain = "A (Red:1.5) İ Ὀδός BREAK CAT", "a red i ὀδός cat"
    got = truncated([prompt], T5, 32, lower=True)
    stock = T5(plain, padding="max_length", max_length=32, return_tensors="pt")
    assert torch.equal(got.ids(0), stock.input_ids)
    assert not torch.equal(truncated([prompt], T5, 32).ids(0), stock.input_ids)
    (red,) = find(got.tokens[0], prompt, "red")
    assert got.weights(0)[0, red] == 1.5 and got.weights(0).sum() == 32.5
    (cat,) = (t for t in got.tokens[0] if t.position == find(got.tokens[0], prompt, "cat")[0])
    assert prompt[cat.start : cat.end] == "CAT"
    assert beyond("CAT " * 40, T5, 32, lower=True).split() == ["CAT"] * 9


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("cat " * 75, [75]),
        ("cat " * 76, [75, 1]),
        ("cat " * 70 + "red, " + "dog " * 20, [72, 20]),  # behind the comma
        ("cat " * 54 + ", " + "dog " * 50, [55, 50]),  # the comma may be 20 tokens back
        ("cat " * 53 + ", " + "dog " * 50, [75, 29]),  # and no more
        ("cat, " * 60, [74, 46]),  # the last comma that fits
        ("cat " * 74 + "zzz dog", [74, 4]),  # no word is cut
        ("z" * 100, [75, 25]),  # unless it is longer than a window
        ("cat " * 60 + ", " + "dog " * 89, [75, 75]),  # never a window more than needed
        ("cat " * 60 + ", " + "dog " * 64, [61, 64]),
        ("cat BREAK dog", [1, 1]),
        ("cat " * 80 + "BREAK dog", [75, 5, 1]),
        ("", [0]),
        ("BREAK", [0]),
    ],
)
def test_where_a_prompt_is_cut(prompt: str, lengths: list[int]) -> None:
    windows = windowed([prompt], CLIP)
    assert [len(w) for w in windows.rows[0]] == lengths
    assert windows_needed(["cat", prompt], CLIP) == len(lengths)


def test_every_window_has_its_own_start_end_and_padding() -> None:
    prompt = "cat, " * 40
    windows = windowed([prompt], CLIP)
    for k, part in enumerate(("cat, " * 37, "cat, " * 3)):
        stock = CLIP(part, padding="max_length", return_tensors="pt")
        assert torch.equal(windows.ids(k), stock.input_ids)


def test_short_prompts_are_filled_up_with_empty_windows() -> None:
    windows = windowed(["cat " * 80, "dog"], CLIP)
    empty = CLIP("", padding="max_length", return_tensors="pt").input_ids
    assert windows.count == 2
    assert torch.equal(windows.ids(1)[1:], empty)
    assert windowed(["dog"], CLIP, 3).count == 3
    with pytest.raises(ShapeError, match="needs 2"):
        windowed(["cat " * 80], CLIP, 1)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["cat ", "dog, ", "zzz ", "beach", ",", "(red:1.2)", "BREAK "])),
    st.integers(1, 40),
)
def test_windows_hold_the_whole_text_in_order_and_are_as_few_as_can_be(parts, times) -> None:
    prompt = "".join(parts) * times
    rows = windowed([prompt], CLIP).rows[0]
    sections = [read_pieces(s, CLIP) for s in parse_weights(prompt)]
    assert [p for window in rows for p in window] == [p for s in sections for p in s]
    assert all(len(window) <= 75 for window in rows)
    assert len(rows) == sum(max(1, math.ceil(len(s) / 75)) for s in sections)


@pytest.mark.parametrize("tokenizer", [CLIP, T5])
def test_brackets_never_change_how_a_word_is_read(tokenizer) -> None:
    (plain,) = parse_weights("a unbelievable cat, dog")
    (signed,) = parse_weights("(a un(bel:1.3))iev[able] c(at), dog")
    first, second = read_pieces(plain, tokenizer), read_pieces(signed, tokenizer)
    assert [p.id for p in first] == [p.id for p in second]


def test_a_token_has_the_weight_of_its_first_letter() -> None:
    (section,) = parse_weights("(c:1.2)at (do:0.5)g")
    assert [p.weight for p in read_pieces(section, CLIP)] == [1.2, 0.5]
    windows = windowed(["a (red:1.2) cat", "dog"], CLIP)
    weights = windows.weights(0)
    assert weights[0, :5].tolist() == [1, 1, 1.2, 1, 1]
    assert (weights[1] == 1).all() and (weights[:, 5:] == 1).all()


def test_textual_inversions_of_several_vectors() -> None:
    pipe = tiny_pipeline()
    for token, vectors in (("<zed>", 3), ("<one>", 1)):
        pipe.load_textual_inversion({token: torch.randn(vectors, 32)})
    prompts = ["a <zed> cat, <one> dog", "<zed>"]
    converted = pipe.maybe_convert_prompt(prompts, pipe.tokenizer)
    assert converted != prompts
    stock = pipe.tokenizer(converted, padding="max_length", return_tensors="pt")
    windows = windowed(prompts, pipe.tokenizer)
    assert torch.equal(windows.ids(0), stock.input_ids)
    places = [(t.start, t.end) for t in windows.tokens[0]]
    assert places[1:4] == [(2, 7)] * 3  # all three stand for the one word
    weighed = windowed(["a (<zed>:1.2) cat"], pipe.tokenizer)
    assert weighed.weights(0)[0, 1:6].tolist() == [1, 1.2, 1.2, 1.2, 1]
