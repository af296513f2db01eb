"""The tokenizer of the embedded model: a CLIPTokenizer in which every word of the world is one
token.

Byte-pair merges are learned from the word list itself until each word is one piece. Encoding
applies merges in the order in which they were learned, so every listed word comes out whole, and
any other word falls apart into smaller pieces and letters. Captions by the million are encoded by
table look-up instead (`Lookup`), with equal results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from compose.errors import ModelError, ShapeError
from compose.world.captions import split_words, words
from compose.world.vocabulary import RARE_TOKENS, USER_TRIGGERS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 40
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def byte_symbols() -> dict[int, str]:
    """The printable stand-in of every byte, as GPT-2 and CLIP write them.

    Returns:
        Byte value to one character. Source: GPT-2 `encoder.py`, `bytes_to_unicode`.
    """
    plain = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + index) for index, byte in enumerate(rest)
    }


def _symbols(word: str, table: dict[int, str]) -> list[str]:
    letters = [table[byte] for byte in word.encode()]
    return [*letters[:-1], letters[-1] + WORD_END]


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def learn_merges(vocabulary: Sequence[str]) -> list[tuple[str, str]]:
    """Merge the commonest neighbours until every word is one symbol.

    Args:
        vocabulary: lower-case words; the order does not matter for the result.

    Returns:
        Merges in the order of learning; ties go to the pair that comes first by alphabet.
    """
    table = byte_symbols()
    open_words = [_symbols(word, table) for word in sorted(set(vocabulary))]
    merges: list[tuple[str, str]] = []
    while open_words := [symbols for symbols in open_words if len(symbols) > 1]:
        counts = Counter(pair for symbols in open_words for pair in pairwise(symbols))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        open_words = [_joined(symbols, best) for symbols in open_words]
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """Make the tokenizer of the embedded world.

    Returns:
        A CLIPTokenizer, 40 positions, padded with the end token; letter case does not matter.

    Raises:
        ModelError: a word of the world is not exactly one token.
    """
    from transformers import AddedToken, CLIPTokenizer

    bpe_words = [*words(), *(token for token in RARE_TOKENS if token not in USER_TRIGGERS)]
    merges = learn_merges(bpe_words)
    letters = list(byte_symbols().values())
    pieces = [
        *letters,
        *(letter + WORD_END for letter in letters),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in USER_TRIGGERS])
    check_words(tokenizer)
    return tokenizer


def check_words(tokenizer: CLIPTokenizer) -> None:
    """Raise ModelError unless every word and rare token of the world is one token of its own."""
    seen: dict[int, str] = {}
    for word in (*words(), *RARE_TOKENS):
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or seen.setdefault(ids[0], word) != word:
            raise ModelError(
                f"the tokenizer gives {word!r} the ids {ids}; expected one id of its own"
            )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Read a saved tokenizer and check it against the words of today."""
    from transformers import CLIPTokenizer

    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    check_words(tokenizer)
    return tokenizer


@dataclass(frozen=True)
class Lookup:
    """Word ids as a plain table: encodes captions without the tokenizer, cheap to send to worker
    processes.

    Attributes:
        ids: word or punctuation mark to token id.
        start, end: ids around a caption; `end` also pads.
        length: tokens per row.
    """

    ids: dict[str, int]
    start: int
    end: int
    length: int = MAX_LENGTH

    @classmethod
    def of(cls, tokenizer: CLIPTokenizer) -> Lookup:
        """Read the table off a tokenizer."""
        known = {
            word: int(tokenizer(word, add_special_tokens=False)["input_ids"][0])
            for word in (*words(), *RARE_TOKENS)
        }
        return cls(
            known,
            int(tokenizer.bos_token_id),
            int(tokenizer.eos_token_id),
            int(tokenizer.model_max_length),
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a caption, padded.

        Args:
            text: words of the world.

        Returns:
            `length` ids, equal to the tokenizer's with padding="max_length" and truncation.

        Raises:
            ShapeError: a word that is no word of the world.
        """
        try:
            inner = [self.ids[word] for word in split_words(text)]
        except KeyError as error:
            raise ShapeError(
                f"cannot look up {error.args[0]!r} of {text!r}: use the tokenizer for free text"
            ) from None
        row = [self.start, *inner[: self.length - 2], self.end]
        return row + [self.end] * (self.length - len(row))

    def encode_many(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for several captions."""
        return [self.encode(text) for text in texts]
