"""Trigger words in a prompt: whether they are there, and the prompt without them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from compose.text.positions import occurrences


def has_trigger(prompt: str, trigger: str) -> bool:
    """Whether a trigger stands in a prompt as words of its own, in any case and with any weights.

    Raises:
        RequestError: the prompt is malformed; see `compose.text.weighting.parse_weights`.
    """
    return bool(occurrences(prompt, trigger))


def without_triggers(prompt: str, triggers: Iterable[str]) -> str:
    """The prompt with every occurrence of some triggers taken out; doubled spaces close up.

    Raises:
        RequestError: as of `has_trigger`.
    """
    for trigger in sorted(triggers, key=len, reverse=True):
        gone = {i for place in occurrences(prompt, trigger) for i in place}
        prompt = "".join(letter for i, letter in enumerate(prompt) if i not in gone)
    return re.sub(r" {2,}", " ", prompt).strip()
