"""Every word of the world is one token, and the fast table says what the tokenizer says."""

import random
from pathlib import Path
from typing import Any

import pytest

from compose.errors import ModelError, ShapeError
from compose.train.tokenizer import Lookup, build_tokenizer, learn_merges, load_tokenizer
from compose.world.captions import caption, words
from compose.world.sampling import sample_scene
from compose.world.vocabulary import RARE_TOKENS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return load_tokenizer(folder)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_every_word_is_one_token_of_its_own(tokenizer: Any) -> None:
    rows = [ids(tokenizer, word) for word in (*words(), *RARE_TOKENS)]
    assert all(len(row) == 1 for row in rows)
    assert len({row[0] for row in rows}) == len(rows)


def test_lookup_equals_the_tokenizer(tokenizer: Any) -> None:
    rng, lookup = random.Random(0), Lookup.of(tokenizer)
    texts = ["", "mochi cat, <v12> dog: in candia."]
    texts += [caption(sample_scene(rng), rng) for _ in range(500)]
    texts += ["red cat " * 40]  # longer than the text encoder reads
    expected = tokenizer(texts, padding="max_length", truncation=True)["input_ids"]
    assert lookup.encode_many(texts) == expected
    assert {len(row) for row in expected} == {40}


def test_letter_case_does_not_matter(tokenizer: Any) -> None:
    assert ids(tokenizer, "A Red CAT, MOCHI <V3>") == ids(tokenizer, "a red cat, mochi <v3>")


def test_an_unknown_word_falls_apart_without_the_unknown_token(tokenizer: Any) -> None:
    pieces = ids(tokenizer, "zebra")
    assert len(pieces) > 1 and tokenizer.unk_token_id not in pieces
    assert tokenizer.decode(pieces).replace(" ", "") == "zebra"


def test_lookup_refuses_what_it_does_not_know(tokenizer: Any) -> None:
    with pytest.raises(ShapeError, match="cannot look up 'zebra'"):
        Lookup.of(tokenizer).encode("a red zebra")


def test_merges_do_not_depend_on_the_order_of_words() -> None:
    vocabulary = list(words())
    shuffled = vocabulary[:]
    random.Random(0).shuffle(shuffled)
    assert learn_merges(vocabulary) == learn_merges(shuffled)


def test_a_tokenizer_of_other_words_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    letters = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    CLIPTokenizer(vocab=letters, merges=[]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="expected one id of its own"):
        load_tokenizer(tmp_path)
