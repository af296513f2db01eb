"""Where the words of a prompt are, in its characters and on the T axis of its embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from compose.errors import RequestError
from compose.text.weighting import parse_weights, plain_text
from compose.types import Token


def spans(text: str, phrase: str) -> tuple[range, ...]:
    """Where a phrase stands in plain text as whole words, in any case.

    Args:
        text: without signs of weighting, or with such that mean nothing.
        phrase: such as "mochi cat"; any white space between its words counts.

    Returns:
        For every occurrence, the indices of its characters.
    """
    words = r"\s+".join(map(re.escape, phrase.split()))
    pattern = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    return tuple(range(*match.span()) for match in pattern.finditer(text) if match[0])


def occurrences(prompt: str, phrase: str) -> tuple[tuple[int, ...], ...]:
    """Where a phrase stands in a prompt as whole words, in any case and under any weights.

    Args:
        prompt: as written, such as "a (mochi:1.2) cat".
        phrase: as of `spans`.

    Returns:
        For every occurrence, the indices of its characters in the prompt.

    Raises:
        RequestError: the prompt is malformed; see `parse_weights`.
    """
    return tuple(
        section.written[place.start : place.stop]
        for section in parse_weights(prompt)
        for place in spans(section.text, phrase)
    )


def find(tokens: Iterable[Token], prompt: str, phrase: str) -> tuple[int, ...]:
    """Text positions of a phrase: of all its occurrences, in all encoders.

    Args:
        tokens: of the prompt's row, from `Conditioning.tokens`.
        prompt: as written.
        phrase: such as the trigger of an adapter; see `occurrences`.

    Returns:
        Ascending positions on the T axis, at least one.

    Raises:
        RequestError: the phrase is not in the prompt, or where no encoder sees it.
    """
    places = occurrences(prompt, phrase)
    if not places:
        there = ", ".join(dict.fromkeys(re.findall(r"\w+", plain_text(prompt)))) or "no words"
        raise RequestError(
            f"{phrase!r} is not in the prompt; expected words that are there, such as {there}; add"
            " it to the prompt"
        )
    characters = {i for place in places for i in place if not prompt[i].isspace()}
    found = {t.position for t in tokens if not characters.isdisjoint(range(t.start, t.end))}
    if not found:
        raise RequestError(
            f"{phrase!r} stands so late in the prompt that no text encoder sees it; expected it"
            " earlier, so shorten the prompt"
        )
    return tuple(sorted(found))
