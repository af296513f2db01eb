"""Weights in a prompt: ``a (red:1.3) cat, [a dog] BREAK on the (beach)``.

The grammar is the one that AUTOMATIC1111 and ComfyUI share: ``(text)`` times 1.1, ``[text]`` over
1.1, ``(text:1.3)`` times 1.3, nested at will; ``BREAK`` starts a new window of the text encoder.
``\\(``, ``\\)``, ``\\[`` and ``\\]`` are plain brackets, and so is a bracket without a partner. See
docs/decisions/0005-prompt-text.md.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from compose.errors import RequestError

STEP = 1.1
"""What a pair of brackets without a number multiplies or divides by."""
MAX_WEIGHT = 5.0
"""Largest weight, either way, after all brackets around a word are multiplied."""

_SIGN = re.compile(
    r"\\(?P<escaped>[()\[\]])"
    r"|(?P<open>[(\[])"
    r"|(?::\s*(?P<number>[+-]?(?:[0-9.,]+(?:[eE][+-]?[0-9]+)?|(?i:nan|inf|infinity)))\s*)?"
    r"(?P<close>[)\]])"
    r"|\bBREAK\b"
)
_PARTNER = {")": "(", "]": "["}
_TEXT = "write \\( \\) \\[ \\] for brackets that are text"


@dataclass(frozen=True)
class Fragment:
    """A stretch of a prompt under one weight.

    Attributes:
        text: ``prompt[start:end]``.
        weight: product of all brackets around it.
        start, end: of its characters in the prompt as written, end exclusive.
    """

    text: str
    weight: float
    start: int
    end: int


@dataclass(frozen=True)
class Section:
    """What stands between two BREAKs, without the signs of weighting."""

    fragments: tuple[Fragment, ...] = ()

    @cached_property
    def text(self) -> str:
        """As text encoders read it."""
        return "".join(f.text for f in self.fragments)

    @cached_property
    def written(self) -> tuple[int, ...]:
        """For every character of `text`, where it stands in the prompt as written."""
        return tuple(i for f in self.fragments for i in range(f.start, f.end))

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """For every character of `text`, its weight."""
        return tuple(f.weight for f in self.fragments for _ in f.text)


def parse_weights(prompt: str) -> tuple[Section, ...]:
    """Take a prompt apart at its brackets and BREAKs.

    A prompt without these signs is one section with one fragment of weight 1, itself. Sections
    without text are left out.

    Args:
        prompt: as the user wrote it, adapter tags taken out.

    Returns:
        At least one section; the fragments are in order and do not overlap.

    Raises:
        RequestError: a weight that is no number or out of range, or prompt editing
            (``[from:to:when]``, ``[one|other]``).
    """
    signs = list(_SIGN.finditer(prompt))
    brackets = _matched(prompt, signs)
    sections: list[list[Fragment]] = [[]]
    around: list[tuple[int, float]] = []
    at = 0
    for number, sign in enumerate(signs):
        if (sign["open"] or sign["close"]) and number not in brackets:
            continue  # text
        sections[-1] += _fragment(prompt, at, sign.start(), around)
        at = sign.end()
        if sign["escaped"]:
            at -= 1
        elif sign["open"]:
            around.append(brackets[number])
        elif sign["close"]:
            around.pop()
        else:
            sections.append([])
    sections[-1] += _fragment(prompt, at, len(prompt), around)
    some = [s for s in sections if any(f.text.strip() for f in s)] or sections[:1]
    return tuple(Section(tuple(fragments)) for fragments in some)


def plain_text(prompt: str) -> str:
    """A prompt without the signs of weighting, sections with a space between.

    Raises:
        RequestError: as of `parse_weights`.
    """
    return " ".join(section.text for section in parse_weights(prompt))


def _matched(prompt: str, signs: Sequence[re.Match[str]]) -> dict[int, tuple[int, float]]:
    """Brackets that have a partner, by their place in `signs`: power of `STEP`, and factor."""
    found: dict[int, tuple[int, float]] = {}
    waiting: list[int] = []
    kinds: Counter[str] = Counter()
    for number, sign in enumerate(signs):
        if sign["open"]:
            waiting.append(number)
            kinds[sign["open"]] += 1
        elif sign["close"] and kinds[_PARTNER[sign["close"]]]:
            opening = None
            while opening != _PARTNER[sign["close"]]:  # what it passes over has no partner
                partner = waiting.pop()
                opening = signs[partner]["open"]
                kinds[opening] -= 1
            found[number] = found[partner] = _strength(prompt, signs[partner], sign)
    return found


def _strength(prompt: str, first: re.Match[str], last: re.Match[str]) -> tuple[int, float]:
    """What a pair of brackets does: power of `STEP`, and factor."""
    written = prompt[first.start() : last.end()]
    if last["close"] == "]":
        if last["number"] or "|" in written:
            raise RequestError(
                f"{_shown(written)} changes the prompt over the steps in other programs, which is"
                f" not supported; expected a weight such as (word:0.8) or [word], and {_TEXT}"
            )
        return -1, 1.0
    if not last["number"]:
        return 1, 1.0
    try:
        weight = float(last["number"])
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise RequestError(
            f"{_shown(written)} has the weight {last['number']!r}; expected a number such as"
            f" (word:1.3), and {_TEXT}"
        )
    return 0, weight


def _fragment(
    prompt: str, start: int, end: int, around: Sequence[tuple[int, float]]
) -> list[Fragment]:
    """The text from `start` to `end` under some brackets; nothing when there is no text."""
    if start == end:
        return []
    power = min(sum(p for p, _ in around), 1000)  # far out of range, and no overflow
    weight = STEP**power * math.prod(factor for _, factor in around)
    text = prompt[start:end]
    if text.strip() and not abs(weight) <= MAX_WEIGHT:
        raise RequestError(
            f"{_shown(text.strip())} has the weight {weight:g} in the prompt; expected"
            f" {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, brackets multiplied; {_TEXT}"
        )
    return [Fragment(text, weight, start, end)]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
