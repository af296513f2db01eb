"""The text that AUTOMATIC1111's web UI puts into pictures, and that galleries read.

    a cat on the beach <lora:mochi:0.8>
    Negative prompt: fog
    Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 128x128, Version: lora-compose 0.1.0

The first lines are the prompt, the last line holds settings. A value with a comma, colon, quote or
line break is written as a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NEGATIVE = "Negative prompt:"
_PAIR = re.compile(r'\s*(\w[\w \-/]*):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_FEWEST = 3  # a last line with fewer pairs is part of the prompt


@dataclass(frozen=True)
class Infotext:
    """What such a text says.

    Attributes:
        prompt: with its adapter tags.
        negative: negative prompt.
        settings: such as "Steps" and "Sampler", in their order, all as text.
    """

    prompt: str
    negative: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def write_infotext(info: Infotext) -> str:
    """The text of a picture."""
    lines = [info.prompt]
    if info.negative:
        lines.append(f"{NEGATIVE} {info.negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in info.settings.items()))
    return "\n".join(lines)


def read_infotext(text: str) -> Infotext:
    """Read the text of a picture, whoever wrote it. Never fails: what is no setting is prompt."""
    lines = text.strip().split("\n")
    pairs = _pairs(lines[-1])
    if len(pairs) < _FEWEST:
        pairs = {}
    else:
        lines.pop()
    start = next((i for i, line in enumerate(lines) if line.strip().startswith(NEGATIVE)), None)
    if start is None:
        return Infotext("\n".join(lines).strip(), "", pairs)
    negative = "\n".join(lines[start:]).strip().removeprefix(NEGATIVE)
    return Infotext("\n".join(lines[:start]).strip(), negative.strip(), pairs)


def _pairs(line: str) -> dict[str, str]:
    return {match[1]: _unquoted(match[2].strip()) for match in _PAIR.finditer(line)}


def _quoted(value: str) -> str:
    plain = value and value == value.strip() and not any(c in value for c in ',:"\\\n\r')
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
