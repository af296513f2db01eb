"""Which position of the embeddings stands for which characters of the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.adapters.adapter import Adapter
from compose.adapters.triggers import has_trigger, phrase, without_triggers
from compose.errors import RequestError
from compose.models.detect import embedded_folder
from compose.models.flux import Flux
from compose.models.sd3 import StableDiffusion3
from compose.models.sd15 import StableDiffusion15
from compose.models.sdxl import StableDiffusionXL
from compose.text.pieces import read_pieces
from compose.text.positions import find, occurrences
from compose.text.weighting import parse_weights, plain_text
from compose.text.windows import truncated, windowed
from compose.types import Token
from tests.tiny import clip_tokenizer, tiny_pipeline
from tests.tiny_flux import tiny_flux
from tests.tiny_sd3 import tiny_sd3
from tests.tiny_sdxl import tiny_sdxl
from tests.tiny_t5 import t5_tokenizer

CLIP, T5 = clip_tokenizer(), t5_tokenizer()


def embedded_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(embedded_folder() / "tokenizer")


WORLD = embedded_tokenizer()


def words_at(tokens: tuple[Token, ...], prompt: str) -> dict[int, str]:
    return {t.position: prompt[t.start : t.end] for t in tokens}


def test_positions_are_counted_behind_the_start_and_name_the_characters_as_written() -> None:
    prompt = "A  (Mochi:1.2) cat, zz"
    (tokens,) = windowed([prompt], CLIP).tokens
    expected = {1: "A", 2: "Mochi", 3: "cat", 4: ",", 5: "z", 6: "z"}
    assert words_at(tokens, prompt) == expected
    lower = "a  (mochi:1.2) cats"
    (tokens,) = truncated([lower], T5, 16).tokens  # T5 has no start
    assert words_at(tokens, lower) == {0: "a", 1: "mochi", 2: "cat", 3: "s"}


def test_positions_follow_the_windows_and_every_row_has_its_own() -> None:
    family = StableDiffusion15(tiny_pipeline())
    long, short = "cat " * 80 + "(mochi:1.2)", "a mochi"
    text = family.encode([long, short])
    assert text.embeds.shape[1] == 154
    assert find(text.tokens[0], long, "mochi") == (77 + 1 + 5,)
    assert find(text.tokens[1], short, "MOCHI") == (2,)
    assert len(find(text.tokens[0], long, "cat")) == 80


def test_a_word_of_sd3_has_positions_in_clip_and_in_t5_and_one_of_flux_in_t5_alone() -> None:
    prompt = "a red (mochi:1.1) cat"
    tokens = StableDiffusion3(tiny_sd3()).encode([prompt]).tokens[0]
    assert find(tokens, prompt, "red mochi") == (2, 3, 77 + 1, 77 + 2)
    tokens = StableDiffusion3(tiny_sd3(t5=False)).encode([prompt]).tokens[0]
    assert find(tokens, prompt, "red mochi") == (2, 3)
    tokens = Flux(tiny_flux()).encode([prompt]).tokens[0]
    assert find(tokens, prompt, "red mochi") == (1, 2)


def test_a_word_of_sdxl_has_the_positions_of_both_encoders_once() -> None:
    pipe = tiny_sdxl()
    family = StableDiffusionXL(pipe)
    prompt = "a red cat"
    assert family.encode([prompt]).tokens == windowed([prompt], CLIP).tokens
    pipe.load_textual_inversion(
        {"<zed>": pipe.text_encoder.get_input_embeddings().weight[:2].clone()},
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
    )
    tokens = family.encode(["<zed> cat"]).tokens[0]
    assert find(tokens, "<zed> cat", "<zed>") == (1, 2, 3, 4)  # two vectors, or < z ed >
    assert find(tokens, "<zed> cat", "cat") == (3, 5)


# Letters, marks and signs; not combining marks, which melt into the letter before them.
letters = st.sampled_from("aAzé日ß😀.,:;()[]\\!?'&123 \t") | st.characters(
    codec="latin-1", exclude_categories=["Cc"]
)


@pytest.mark.parametrize("tokenizer", [CLIP, T5, WORLD])
@settings(deadline=None)
@given(prompt=st.text(letters, max_size=30))
def test_tokens_cover_every_letter_of_the_text_in_order(tokenizer, prompt) -> None:
    try:
        sections = parse_weights(prompt)
    except RequestError:
        return
    for section in sections:
        pieces = read_pieces(section, tokenizer)
        covered = {i for p in pieces for i in range(p.start, p.end)}
        assert {i for i in section.written if not prompt[i].isspace()} <= covered
        assert [p.start for p in pieces] == sorted(p.start for p in pieces)
        assert all(p.start < p.end for p in pieces)


@pytest.mark.parametrize("tokenizer", [CLIP, T5, WORLD])
@settings(deadline=None)
@given(
    before=st.lists(st.sampled_from(["a", "red", "(cat:1.2)", "xyz,", "BREAK"]), max_size=40),
    phrase=st.sampled_from(["mochi", "zzyq cat", "sunvo style", "é7"]),
    form=st.sampled_from(["{}", "({}:1.3)", "[{}]", "((({})))", "\\({}\\)"]),
    after=st.lists(st.sampled_from(["dog", "mochis", "[on]"]), max_size=3),
)
def test_a_phrase_is_found_where_it_was_put(tokenizer, before, phrase, form, after) -> None:
    prompt = " ".join([*before, form.format(phrase), *after])
    windows = windowed([prompt], tokenizer) if tokenizer is not T5 else truncated([prompt], T5, 512)
    ids = {
        k * windows.frame.length + len(windows.frame.begin) + i: p.id
        for k, window in enumerate(windows.rows[0])
        for i, p in enumerate(window)
    }
    found = find(windows.tokens[0], prompt, phrase.upper())
    alone = tokenizer(phrase, add_special_tokens=False)["input_ids"]
    bracket = "" if form != "\\({}\\)" else "("
    expected = tokenizer(bracket + phrase, add_special_tokens=False)["input_ids"]
    assert [ids[p] for p in found] in (alone, expected[-len(found) :])
    start = len(" ".join([*before, ""])) + form.index("{}")
    assert occurrences(prompt, phrase)[-1] == tuple(range(start, start + len(phrase)))


def test_all_occurrences_as_whole_words() -> None:
    prompt = "mochi, mochis, (MOCHI:1.2) xmochi mochi-cat"
    (tokens,) = windowed([prompt], CLIP).tokens
    found = find(tokens, prompt, "mochi")
    assert [words_at(tokens, prompt)[p] for p in found] == ["mochi", "MOCHI", "mochi"]
    assert [prompt[p[0] : p[-1] + 1] for p in occurrences(prompt, "mochi")] == [
        *("mochi", "MOCHI", "mochi")
    ]


def test_a_phrase_may_run_through_brackets_and_spaces_but_not_through_a_break() -> None:
    prompt = "a (mochi:1.2)  [cat] BREAK dog"
    (tokens,) = windowed([prompt], CLIP).tokens
    assert find(tokens, prompt, "mochi cat") == (2, 3)
    assert find(tokens, prompt, "dog") == (77 + 1,)
    assert occurrences(prompt, "cat dog") == ()
    assert plain_text(prompt) == "a mochi  cat   dog"


def test_an_absent_phrase_is_refused_with_what_is_there() -> None:
    (tokens,) = windowed(["a (red:1.2) cat"], CLIP).tokens
    with pytest.raises(RequestError, match=r"'mochi' is not in the prompt.*a, red, cat"):
        find(tokens, "a (red:1.2) cat", "mochi")
    prompt = "cat " * 80 + "mochi"
    (tokens,) = truncated([prompt], CLIP).tokens
    with pytest.raises(RequestError, match="'mochi' stands so late"):
        find(tokens, prompt, "mochi")


def test_triggers_are_found_and_taken_out_under_weights() -> None:
    prompt = "a (red (mochi cat:1.2) on [the] beach)"
    for trigger in ("mochi cat", "Mochi", "red mochi", "the beach"):
        assert has_trigger(prompt, trigger)
    assert not has_trigger(prompt, "1.2") and not has_trigger(prompt, "moch")
    bare = plain_text(without_triggers(prompt, ["mochi cat"]))
    assert bare.split() == ["a", "red", "on", "the", "beach"]
    assert without_triggers("a mochi  cat", ["mochi"]) == "a cat"


def test_what_is_said_of_an_adapter_alone() -> None:
    """A trigger, by preference one of the prompt, and the class word unless it is in it."""
    adapter = Adapter("a", {}, triggers=("mochi", "teal cat"), class_word="cat")
    assert phrase(adapter, []) == phrase(adapter, ["a dog"]) == "mochi cat"
    assert phrase(adapter, ["a (teal:1.2) cat"]) == "teal cat"
    assert phrase(adapter, ["a teal cat", "mochi"]) == "mochi cat"
    assert phrase(Adapter("a", {}, class_word="cat"), ["a dog"]) == "cat"
    assert phrase(Adapter("a", {}, triggers=("scatter",), class_word="cat"), []) == "scatter cat"
    with pytest.raises(RequestError, match="a names no words that call it"):
        phrase(Adapter("a", {}), ["a dog"])
