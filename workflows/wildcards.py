"""Random parts of prompts: ``__place__`` from a list of values, ``{red|blue}`` written out.

A choice depends on the seed of the batch, the name of the item, the number of the picture and which
of the prompt's choices it is: never on other items, on the order of work or on who does it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from compose.errors import RequestError, nearest

_PART = re.compile(r"__([A-Za-z0-9](?:[\w/.-]*?[A-Za-z0-9])??)__|\{([^{}]*)\}")
_OTHERS = re.compile(r"^\s*(\d+(-\d+)?\$\$|[\d.]+::)")  # grammar of other programs
_DEEPEST = 16


def drawn(*about: object) -> int:
    """A number of 64 bits that depends on what it is about and on nothing else."""
    told = "\0".join(map(str, about)).encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big")


def wildcards_in(text: str) -> tuple[str, ...]:
    """Names of the wildcards that a text has."""
    return tuple(match[1] for match in _PART.finditer(text) if match[1])


def fill(text: str, values: Mapping[str, Sequence[str]], *about: object) -> str:
    """A text with its random parts chosen.

    Args:
        text: may hold wildcards and choices, which may hold others.
        values: of each wildcard.
        *about: what the choice depends on, such as a seed and a name.

    Raises:
        RequestError: an unknown wildcard, one that leads back to itself, an empty choice, or signs
            that mean something else in other programs.
    """
    count = 0

    def choose(match: re.Match[str]) -> str:
        nonlocal count
        options = _options(match, values)
        count += 1
        return options[drawn(*about, count) % len(options)]

    for _ in range(_DEEPEST):
        if not _PART.search(text):
            if "{" in text or "}" in text:
                raise RequestError(
                    f"{text!r} has a brace without a partner; expected choices as {{red|blue}}"
                )
            return text
        text = _PART.sub(choose, text)
    raise RequestError(
        f"wildcards lead to others more than {_DEEPEST} deep; expected an end: does one contain"
        " itself?"
    )


def _options(match: re.Match[str], values: Mapping[str, Sequence[str]]) -> Sequence[str]:
    if match[1] is not None:
        if match[1] not in values:
            raise RequestError(
                f"{match[0]} is no wildcard of this file; {nearest(match[1], values)}"
            )
        return values[match[1]]
    options = match[2].split("|")
    if len(options) < 2 or _OTHERS.match(match[2]):
        raise RequestError(
            f"{match[0]} is no choice; expected two or more texts with | between, such as"
            " {red|blue}"
        )
    return options
