"""Adapter tags in a prompt: ``a mochi cat <lora:mochi:0.8>``.

The grammar is that of the web UIs: ``<lora:NAME>``, ``<lora:NAME:WEIGHT>``,
``<lora:NAME:TEXT:DENOISER>``, and the same by name, ``<lora:NAME:te=0.5:unet=0.8>``. The first
weight is the text encoder's and, unless there is a second one, also the denoiser's. Tags never
reach the text encoder, and a tag that is not understood is an error, never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compose.errors import RequestError
from compose.request import AdapterUse

_TAG = re.compile(r"<(\w+):([^<>]*)>")
_OPEN = re.compile(r"<\s*lora\s*:[^>]{0,40}", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)
_EXAMPLE = "expected <lora:NAME:WEIGHT> such as <lora:mochi:0.8>"

# Arguments that other programs know. They change the picture, so they cannot just be dropped.
_LATER: Mapping[str, str] = {
    "dyn": "a rank taken from the file's first singular values",
    "lbw": "weights by block",
    "lbwe": "weights by block and layer kind",
    "start": "a first step",
    "stop": "a last step",
    "step": "steps",
    "in": "a weight for the input blocks",
    "mid": "a weight for the middle block",
    "out": "a weight for the output blocks",
    "hr": "a weight for a second pass",
    "region": "a region",
    "mask": "a mask",
    "tokens": "a choice of words",
}


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart.

    Attributes:
        text: without tags, as the text encoder gets it.
        adapters: what the tags ask for, in their order.
    """

    text: str
    adapters: tuple[AdapterUse, ...] = ()


def parse_prompt(text: str) -> Prompt:
    """Take the adapter tags out of a prompt.

    A prompt without tags comes back as it was. Around a tag that is taken out, doubled spaces and
    commas close up.

    Args:
        text: as the user wrote it.

    Raises:
        RequestError: a tag of another kind, with a bad weight, with an argument that is not
            supported, one that is not closed, or two for the same adapter.
    """
    uses = [_use(match) for match in _TAG.finditer(text)]
    names = [use.name for use in uses]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(
                f"the prompt has {names.count(name)} tags for adapter {name}; expected one,"
                " with the weight it should have"
            )
    rest = _TAG.sub("\0", text) if uses else text
    left_open = _OPEN.search(rest)
    if left_open is not None:
        raise RequestError(f"the tag {left_open[0]!r} in the prompt is not closed; {_EXAMPLE}")
    return Prompt(_closed_up(rest) if uses else text, tuple(uses))


def refuse_tags(text: str, where: str) -> None:
    """Refuse adapter tags where they have no meaning.

    Args:
        text: what the user wrote.
        where: what it is, such as "the negative prompt".

    Raises:
        RequestError: there is one.
    """
    found = _TAG.search(text) or _OPEN.search(text)
    if found is not None:
        raise RequestError(
            f"{found[0]!r} was given in {where}; expected adapter tags in the prompt only,"
            " so move it there"
        )


def tags(adapters: Iterable[AdapterUse]) -> str:
    """The tags that ask for some adapters, with a space between; `parse_prompt` reads them back."""
    return " ".join(_tag(use) for use in adapters)


def read_number(text: str) -> float | None:
    """A weight as people write it, also "nan" and "inf"; None for anything else."""
    word = text.strip()
    if _NUMBER.fullmatch(word) or word.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(word)
    return None


def _tag(use: AdapterUse) -> str:
    name = re.sub(r"[<>:]", "_", use.name)
    both = use.text_weight is None or use.text_weight == use.weight
    weights = f"{use.weight!r}" if both else f"{use.text_weight!r}:{use.weight!r}"
    return f"<lora:{name}:{weights}>"


def _use(match: re.Match[str]) -> AdapterUse:
    tag, kind, inner = match[0], match[1], match[2]
    if kind.lower() != "lora":
        raise RequestError(f"the tag {tag} is of kind {kind!r}, which is not supported; {_EXAMPLE}")
    name, *arguments = (part.strip() for part in inner.split(":"))
    if not name:
        raise RequestError(f"the tag {tag} names no adapter; {_EXAMPLE}")
    placed: list[float] = []
    named: dict[str, float] = {}
    for argument in arguments:
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals:
            placed.append(_weight(tag, argument))
        elif key.lower() in ("te", "unet") and key.lower() not in named:
            named[key.lower()] = _weight(tag, value)
        else:
            raise _unsupported(tag, key)
    if len(placed) > 2:
        raise _unsupported(tag, "dyn")
    text = named.get("te", placed[0] if placed else 1.0)
    denoiser = named.get("unet", placed[1] if len(placed) == 2 else text)
    return AdapterUse(name, denoiser, None if text == denoiser else text)


def _weight(tag: str, text: str) -> float:
    number = read_number(text)
    if number is None:
        when = "; a weight that changes over the steps is not supported yet" if "@" in text else ""
        raise RequestError(f"the tag {tag} has the weight {text!r}{when}; {_EXAMPLE}")
    return number


def _unsupported(tag: str, key: str) -> RequestError:
    if key.lower() in ("te", "unet"):
        return RequestError(f"the tag {tag} gives {key} twice; {_EXAMPLE}")
    meaning = _LATER.get(key.lower())
    what = f"{key} ({meaning}), which is not supported yet" if meaning else f"an unknown {key!r}"
    return RequestError(f"the tag {tag} has {what}; expected only weights, te= and unet=")


def _closed_up(text: str) -> str:
    """Close the gaps that NUL characters stand for."""
    text = re.sub(r"[ \t]*\0[ \t\0]*", " \0 ", text)
    text = re.sub(r",[ \t]*\0 (?=,|\s*$)", "", text)  # a list item that was nothing but a tag
    text = re.sub(r"^\s*\0[ \t]*,?[ \t]*", "", text)
    text = re.sub(r"(?<=[(\[]) \0 | \0 (?=[,.;:)\]\n]|$)", "", text)
    return re.sub(r" \0 ", " ", text).strip()
