"""Trigger words in a prompt: whether and where they are there, and the prompt without them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from compose.adapters.adapter import Adapter
from compose.errors import RequestError
from compose.text.positions import find, occurrences
from compose.types import Token


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


def check_called(adapters: Iterable[Adapter], prompt: str) -> None:
    """Refuse a prompt that does not call every adapter by words of its own.

    Raises:
        RequestError: no trigger of an adapter is in the prompt, or two adapters share words there.
    """
    owners: dict[int, Adapter] = {}
    for adapter in adapters:
        places = [p for t in adapter.triggers for p in occurrences(prompt, t)]
        if not places:
            known = " or ".join(repr(t) for t in adapter.triggers[:4]) or "none that is known"
            raise RequestError(
                f"adapter {adapter.name} is not called in the prompt; its triggers: {known};"
                f" expected one of them there, so add it, or say with --bind {adapter.name}=WORDS"
                " which words of the prompt call it"
            )
        for character in (i for place in places for i in place):
            other = owners.setdefault(character, adapter)
            if other is not adapter:
                words = next(prompt[p[0] : p[-1] + 1] for p in places if character in p)
                raise RequestError(
                    f"adapters {other.name} and {adapter.name} are both called by {words!r} in the"
                    " prompt; expected words of its own for each, so say with --bind NAME=WORDS"
                    " which they are"
                )


def calls(adapter: Adapter, prompt: str, *, class_word: bool = False) -> tuple[str, ...]:
    """The phrases of a prompt that call an adapter.

    Args:
        adapter: with or without a trigger there.
        prompt: as written.
        class_word: count the adapter's class word too, where it stands right behind a trigger.

    Returns:
        Its triggers that are in the prompt, then those with the class word.
    """
    there = tuple(t for t in adapter.triggers if occurrences(prompt, t))
    if not (class_word and adapter.class_word):
        return there
    phrases = (f"{t} {adapter.class_word}" for t in there)
    return (*there, *(phrase for phrase in phrases if occurrences(prompt, phrase)))


def phrase(adapter: Adapter, prompts: Sequence[str]) -> str:
    """What is said of an adapter alone: a trigger of its, and its class word unless that is in it.

    Args:
        adapter: which.
        prompts: a trigger that stands in all of them is preferred to one that does not.

    Raises:
        RequestError: neither a trigger nor a class word is known, or a prompt is malformed.
    """
    there = (t for t in adapter.triggers if all(occurrences(p, t) for p in prompts))
    words = next(there, (*adapter.triggers, "")[0])
    if adapter.class_word and not occurrences(words, adapter.class_word):
        words = f"{words} {adapter.class_word}".strip()
    if not words:
        raise RequestError(
            f"adapter {adapter.name} names no words that call it; expected some to say in its"
            f" region, so add them to the prompt and say with --bind {adapter.name}=WORDS which"
            " they are"
        )
    return words


def called_at(
    adapter: Adapter, tokens: Sequence[Token], prompt: str, *, class_word: bool = False
) -> tuple[int, ...]:
    """Text positions of the phrases of a prompt that call an adapter.

    Args:
        adapter: called as `check_called` wants it.
        tokens: of the prompt's row, from `Conditioning.tokens`.
        prompt, class_word: as of `calls`.

    Returns:
        Ascending positions on the T axis.

    Raises:
        RequestError: no text encoder sees them.
    """
    there = calls(adapter, prompt, class_word=class_word)
    return tuple(sorted({p for phrase in there for p in find(tokens, prompt, phrase)}))
