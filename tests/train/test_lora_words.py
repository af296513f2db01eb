"""Where the trigger and the class word stand in captions."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from compose.errors import ConceptError
from compose.text.positions import find
from compose.text.windows import truncated
from compose.train.lora_data import concept_pictures
from compose.train.lora_words import Words, check_words, find_words
from compose.train.tokenizer import build_tokenizer
from tests.train.lora_pipeline import configure

TOKENIZER = build_tokenizer()
CPU = torch.device("cpu")


def words(*captions: str, trigger: str = "<v1>", class_word: str = "cat") -> Words:
    return find_words(captions, trigger, class_word, TOKENIZER, CPU)


def at(mask: torch.Tensor) -> list[int]:
    return mask.nonzero()[:, 0].tolist()


def test_positions_are_those_that_tara_finds_when_pictures_are_made(tmp_path: Path) -> None:
    captions = [c for group in concept_pictures(configure(tmp_path), 16).captions for c in group]
    found = words(*captions)
    tokens = truncated(captions, TOKENIZER).tokens
    for row, (caption, there) in enumerate(zip(captions, tokens, strict=True)):
        assert at(found.trigger[row]) == list(find(there, caption, "<v1>"))
        assert at(found.class_word[row]) == list(find(there, caption, "cat"))
    assert found.trigger.shape == (len(captions), TOKENIZER.model_max_length)


def test_every_occurrence_and_every_subword_counts() -> None:
    found = words("zxqj cat, a ZXQJ  cat and a catbird", trigger="zxqj")
    ids = TOKENIZER("zxqj cat, a ZXQJ  cat and a catbird")["input_ids"]
    pieces = len(TOKENIZER("zxqj")["input_ids"]) - 2
    assert pieces > 1
    assert found.trigger.sum() == 2 * pieces and found.class_word.sum() == 2
    (cat,) = TOKENIZER("cat")["input_ids"][1:-1]
    assert at(found.class_word[0]) == [i for i, token in enumerate(ids) if token == cat]
    assert at(found.trigger[0])[:pieces] == list(range(1, 1 + pieces))


def test_the_class_word_behind_the_trigger_counts_before_others() -> None:
    found = words("a red cat and <v1> cat", "a cat, <v1>, and a cat")
    assert at(found.class_word[0]) == [6]
    assert found.class_word[1].sum() == 2


def test_brackets_in_captions_are_text() -> None:
    """As the pipeline reads captions; in prompts they would be weights and take no position."""
    (caption,) = ("a (<v1>:1.5) cat BREAK [cat]",)
    ids = TOKENIZER(caption)["input_ids"]
    found = words(caption)
    (trigger,), (cat,) = (TOKENIZER(w)["input_ids"][1:-1] for w in ("<v1>", "cat"))
    assert at(found.trigger[0]) == [ids.index(trigger)]
    assert at(found.class_word[0]) == [i for i, token in enumerate(ids) if token == cat]


def test_what_is_not_there_or_cut_off_stands_nowhere() -> None:
    late = "a " * 60 + "<v1> cat"
    found = words("", "a red dog", "<v12> catty", late, "<v1> dog", "a cat")
    assert found.trigger.any(dim=1).tolist() == [False] * 4 + [True, False]
    assert found.class_word.any(dim=1).tolist() == [False] * 5 + [True]
    assert not found.both.any()
    assert not words("<v1> cat", class_word="").class_word.any()


def test_captions_without_the_words_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(tmp_path, tara=True)
    with caplog.at_level(logging.WARNING):
        check_words(config, words("<v1> cat", "a <v1>", "a cat", "a <v1> at night"))
    assert [r.getMessage() for r in caplog.records] == [
        "1 of 4 captions lack the trigger <v1>: there a TARA adapter leaves the text alone",
        "2 of 4 captions lack the class word cat: the alignment loss leaves them out",
    ]


def test_captions_that_all_lack_a_word_are_refused(tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True)
    with pytest.raises(ConceptError, match=r"none of the 2 captions has the trigger '<v1>'"):
        check_words(config, words("a cat", "a dog"))
    apart = words("a <v1>", "a cat")
    with pytest.raises(ConceptError, match=r"none of the 2 captions has the class word 'cat'"):
        check_words(config, apart)
    check_words(configure(tmp_path, tara=True, align=0), apart)
