"""Trigger words in a prompt: whether they are there, and the prompt without them."""

from __future__ import annotations

import re
from collections.abc import Iterable


def has_trigger(prompt: str, trigger: str) -> bool:
    """Whether a trigger stands in a prompt as words of its own, in any case."""
    return _pattern(trigger).search(prompt) is not None


def without_triggers(prompt: str, triggers: Iterable[str]) -> str:
    """The prompt with every occurrence of some triggers taken out; doubled spaces close up."""
    for trigger in sorted(triggers, key=len, reverse=True):
        prompt = _pattern(trigger).sub("", prompt)
    return re.sub(r" {2,}", " ", prompt).strip()


def _pattern(trigger: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
