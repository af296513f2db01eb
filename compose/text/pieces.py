"""The tokens of a prompt, each with its weight and its place in the prompt as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from compose.text.weighting import Section


@dataclass(frozen=True)
class Piece:
    """A token that stands for text.

    Attributes:
        id: in the vocabulary.
        weight: of the first character it stands for.
        start, end: of its characters in the prompt as written, end exclusive.
        opens: whether it begins a word.
        comma: whether it is a comma.
    """

    id: int
    weight: float
    start: int
    end: int
    opens: bool
    comma: bool


def read_pieces(section: Section, tokenizer: Any, *, lower: bool = False) -> tuple[Piece, ...]:
    """Tokenize a section as a whole, so that brackets never change how a word is read.

    A textual inversion of several vectors becomes as many tokens; the further ones carry the name
    of the first with ``_1``, ``_2`` behind it, as diffusers' `load_textual_inversion` adds them.

    Args:
        section: text with weights.
        tokenizer: of transformers, with offsets (all of its CLIP and T5 tokenizers from 5 on).
        lower: whether the text is read in lower case.

    Returns:
        Its tokens, without those of start, end and padding.
    """
    text = _lowered(section.text) if lower else section.text
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    vectors = _further_vectors(tokenizer)
    pieces: list[Piece] = []
    for index, (first, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
        last = max(first, end - 1)
        place = (section.weights[first], section.written[first], section.written[last] + 1)
        opens = first == 0 or text[first - 1].isspace() or text[first - 1] == ","
        same = bool(pieces) and pieces[-1].start == place[1]  # bytes of one letter
        pieces.append(Piece(index, *place, opens and not same, text[first:end] == ","))
        pieces += [Piece(more, *place, False, False) for more in vectors.get(index, ())]
    return tuple(pieces)


def _lowered(text: str) -> str:
    """Lower case, as many characters as before: of all letters only this one becomes two."""
    return text.replace("\u0130", "i").lower()


def _further_vectors(tokenizer: Any) -> Mapping[int, tuple[int, ...]]:
    """Ids of the second and later vectors of textual inversions, by the id of the first."""
    added: Mapping[str, int] = tokenizer.added_tokens_encoder
    further = {}
    for token, index in added.items():
        names = takewhile(added.__contains__, (f"{token}_{n}" for n in count(1)))
        further[index] = tuple(added[name] for name in names)
    return further
