"""Prompts cut into windows that a text encoder can read.

CLIP reads 77 tokens at once, start and end among them. A longer prompt is read in several windows,
as AUTOMATIC1111 does it: each has its own start, end and padding, and their embeddings follow one
another on the T axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compose.errors import ShapeError
from compose.text.pieces import Piece, read_pieces
from compose.text.weighting import parse_weights
from compose.types import Token

BACK = 20
"""How many tokens before the end of a window a cut is looked for."""

Window = tuple[Piece, ...]


@dataclass(frozen=True)
class Frame:
    """What surrounds the text in a window.

    Attributes:
        begin, end: ids before and after the text.
        pad: id that fills up.
        length: tokens of a window, all of these included.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    length: int

    @property
    def room(self) -> int:
        """Tokens of text that a window holds."""
        return self.length - len(self.begin) - len(self.end)


@dataclass(frozen=True)
class Windows:
    """Prompts in windows, the same number for each.

    Attributes:
        rows: for every prompt its windows.
        frame: what surrounds the text in each.
    """

    rows: tuple[tuple[Window, ...], ...]
    frame: Frame

    @property
    def count(self) -> int:
        """Windows of a prompt."""
        return len(self.rows[0])

    @property
    def tokens(self) -> tuple[tuple[Token, ...], ...]:
        """For every prompt, which characters the positions on the T axis stand for."""
        length, first = self.frame.length, len(self.frame.begin)
        return tuple(
            tuple(
                Token(k * length + first + i, piece.start, piece.end)
                for k, window in enumerate(row)
                for i, piece in enumerate(window)
            )
            for row in self.rows
        )

    def ids(self, k: int) -> Tensor:
        """Ids of the k-th window of every prompt, [rows, length]."""
        return torch.tensor([self._filled([p.id for p in row[k]]) for row in self.rows])

    def mask(self, k: int) -> Tensor:
        """One where the k-th window is not padding, [rows, length]."""
        used = torch.tensor([len(row[k]) for row in self.rows])
        used += self.frame.length - self.frame.room
        return (torch.arange(self.frame.length) < used[:, None]).long()

    def weights(self, k: int) -> Tensor:
        """Weight of every position of the k-th window, [rows, length] float64; 1 beside text."""
        out = torch.ones(len(self.rows), self.frame.length, dtype=torch.float64)
        first = len(self.frame.begin)
        for row, windows in zip(out, self.rows, strict=True):
            row[first : first + len(windows[k])] = torch.tensor(
                [p.weight for p in windows[k]], dtype=torch.float64
            )
        return out

    def without_text(self) -> Windows:
        """One window with nothing in it for every prompt."""
        return Windows((((),),) * len(self.rows), self.frame)

    def _filled(self, ids: list[int]) -> list[int]:
        frame = self.frame
        filled = [*frame.begin, *ids, *frame.end]
        return filled + [frame.pad] * (frame.length - len(filled))


def windowed(prompts: Sequence[str], tokenizer: Any, count: int | None = None) -> Windows:
    """Prompts in as many windows as they need.

    A prompt is cut behind a comma if there is one among the last `BACK` tokens of a window, else
    between words; but never so early that another window would be needed for what is left.

    Args:
        prompts: as written, weights included.
        tokenizer: as for `read_pieces`; its `model_max_length` is the length of a window.
        count: windows of every prompt; None for as many as the longest needs.

    Raises:
        RequestError: as of `parse_weights`.
        ShapeError: `count` windows are too few.
    """
    frame = _frame(tokenizer, tokenizer.model_max_length)
    rows = [
        [window for pieces in _sections(prompt, tokenizer) for window in _cut(pieces, frame.room)]
        for prompt in prompts
    ]
    most = max(len(row) for row in rows)
    if count is not None and count < most:
        raise ShapeError(
            f"{count} windows were given for a prompt that needs {most}; expected at least as many,"
            " so make the texts of a method no longer than the prompts of its run"
        )
    full = count or most
    return Windows(tuple((*row, *((),) * (full - len(row))) for row in rows), frame)


def windows_needed(prompts: Sequence[str], tokenizer: Any) -> int:
    """How many windows the longest of some prompts needs.

    Raises:
        RequestError: as of `parse_weights`.
    """
    return windowed(prompts, tokenizer).count


def truncated(
    prompts: Sequence[str], tokenizer: Any, length: int | None = None, *, lower: bool = False
) -> Windows:
    """Prompts in one window each; what does not fit is left out. BREAK is a space.

    Args:
        prompts, tokenizer: as for `windowed`.
        length: tokens of the window; None for the tokenizer's `model_max_length`.
        lower: whether the text is read in lower case, as PixArt's pipelines do.

    Raises:
        RequestError: as of `parse_weights`.
    """
    frame = _frame(tokenizer, length or tokenizer.model_max_length)
    read = [
        [p for pieces in _sections(prompt, tokenizer, lower=lower) for p in pieces]
        for prompt in prompts
    ]
    return Windows(tuple((tuple(pieces[: frame.room]),) for pieces in read), frame)


def beyond(prompt: str, tokenizer: Any, length: int | None = None, *, lower: bool = False) -> str:
    """The part of a prompt that `truncated` leaves out; empty when all of it fits.

    Arguments are as of `truncated`.

    Raises:
        RequestError: as of `parse_weights`.
    """
    room = _frame(tokenizer, length or tokenizer.model_max_length).room
    sections = parse_weights(prompt)
    pieces = [p for section in sections for p in read_pieces(section, tokenizer, lower=lower)]
    if len(pieces) <= room:
        return ""
    start = pieces[room].start
    left = ((c for c, i in zip(s.text, s.written, strict=True) if i >= start) for s in sections)
    return " ".join("".join(part) for part in left).strip()


def _frame(tokenizer: Any, length: int) -> Frame:
    """CLIP has a start and an end, T5 only an end: what an empty text is made of."""
    ids = tokenizer("")["input_ids"]
    return Frame(tuple(ids[:-1]), tuple(ids[-1:]), tokenizer.pad_token_id, length)


def _sections(prompt: str, tokenizer: Any, *, lower: bool = False) -> list[tuple[Piece, ...]]:
    return [read_pieces(section, tokenizer, lower=lower) for section in parse_weights(prompt)]


def _cut(pieces: Sequence[Piece], room: int) -> list[Window]:
    """The windows of one section, at least one and no more than needed."""
    left = tuple(pieces)
    windows = []
    while len(left) > room:
        spare = -len(left) % room  # so many tokens earlier, and the number of windows is the same
        end = _best_cut(left, room, min(spare, BACK, room - 1))
        windows.append(left[:end])
        left = left[end:]
    return [*windows, left]


def _best_cut(pieces: Sequence[Piece], room: int, back: int) -> int:
    """Where a window that holds `room` tokens ends, at most `back` tokens before it is full."""
    ends = range(room, room - back - 1, -1)
    commas = (end for end in ends if pieces[end - 1].comma)
    words = (end for end in ends if pieces[end].opens)
    return next(commas, next(words, room))
