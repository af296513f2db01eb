"""Words for a scene: training captions in many wordings, held-out wordings, and one plain wording.

The tables live in `phrasings` and `relations`, noun phrases in `speaker`. A caption is lower case,
uses no punctuation but comma, colon and period, and has at most `MAX_WORDS` tokens (a punctuation
mark is one), so that with start and end it fits the 40 positions of the text encoder.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import get_args

from compose.errors import RequestError
from compose.world import phrasings as say
from compose.world import relations as stand
from compose.world.scene import Scene
from compose.world.speaker import NOTHING, Drops, Phrasing, Speaker, known
from compose.world.vocabulary import BASE_COLOURS, RARE_TOKENS

MAX_WORDS = 38
PUNCTUATION = (",", ".", ":")
_NOUN = re.compile(r"\{([a-zA-Z])\}")
_FINITE = re.compile(r" (is|has|stands|see)\b|\. ")
_PIECES = re.compile(r"<v\d+>|'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|[^\s\w]+|_+")


def split_words(text: str) -> list[str]:
    """Cut a prompt as the tokenizer does: words, digits, runs of punctuation, user tokens."""
    return _PIECES.findall(text.lower())


def _body(speaker: Speaker, scene: Scene, placed: bool, alike: bool, nouns: bool) -> str:
    """A template for the things of a scene in training wording."""
    count, rng = len(scene.things), speaker.rng
    if count == 1:
        off = abs(scene.things[0].x - 0.5) > 0.1
        if off and (placed or rng.random() < 0.5):
            return speaker.pick(stand.ONE_SIDE)
        return speaker.pick(say.ONE_CENTRE if not off and rng.random() < 0.1 else say.ONE_THING)
    if alike and count == 2:
        return speaker.pick(stand.TWO_ALIKE_PLACED if placed else stand.TWO_ALIKE_FREE)
    if alike:
        return speaker.pick(stand.THREE_ALIKE_PLACED if placed else stand.THREE_ALIKE_FREE)
    if count == 3:
        return speaker.pick(stand.THREE_PLACED if placed else say.THREE_FREE)
    if not placed:
        return speaker.pick(say.TWO_FREE)
    draw = rng.random()
    if draw < 0.08:
        return speaker.pick(stand.TWO_AROUND)
    if nouns and draw < 0.16:
        return speaker.pick(stand.TWO_NOUNS)
    return speaker.pick(rng.choice(stand.TWO_PLACED))


@lru_cache(maxsize=1024)
def sentences(body: str) -> tuple[str, ...]:
    """The sentences of the tables that a body can stand in, itself in its place."""
    if "{where}" in body:
        return (body,)
    texts: tuple[str, ...] = say.SENTENCES
    if not _NOUN.match(body) or _FINITE.search(body):  # "a beach with on the left a cat"
        texts = tuple(text for text in texts if not text.startswith(("{where} ", "{scene} ")))
    return tuple(text.replace("{body}", body) for text in texts)


@lru_cache(maxsize=4096)
def openings(sentence: str) -> tuple[str, ...]:
    """Prefixes that a sentence can follow: none unless it starts with a noun phrase."""
    start = _NOUN.match(sentence)
    if (start is None and not sentence.startswith("{scene}")) or _FINITE.search(sentence):
        return ()
    bare = start is not None and start[1].islower() and start[1] != "n"
    return tuple(text for text in say.PREFIXES if not bare or text.endswith("of "))


def _template(speaker: Speaker, scene: Scene, full: bool, alike: bool, nouns: bool) -> str:
    """A whole training sentence with open slots."""
    rng = speaker.rng
    count = len(scene.things)
    placed = full or rng.random() < (0.76 if count == 2 else 0.7)
    if not alike and rng.random() < 0.08:
        return speaker.pick(stand.TAGS_PLACED[count] if placed and count > 1 else say.TAGS[count])
    body = _body(speaker, scene, placed, alike, nouns)
    sentence = speaker.pick(sentences(body)) if speaker.keep(speaker.drops.place) else body
    prefixes = openings(sentence)
    return (speaker.pick(prefixes) if prefixes and rng.random() < 0.3 else "") + sentence


def _alike(scene: Scene, names: Mapping[int, str], speaker: Speaker) -> bool:
    """Whether to count ("two cats, one red and one blue") instead of naming each."""
    if speaker.phrasing != "train" or names or len(scene.things) < 2:
        return False
    return len({thing.species for thing in scene.things}) == 1 and speaker.rng.random() < 0.4


def _styled(text: str, scene: Scene, style: str | None, speaker: Speaker, template: str) -> str:
    """The caption with its style; "picture of" takes nothing but a noun phrase."""
    if style is None:
        if scene.style != "plain":
            known({}, scene.style, "style")
        if speaker.phrasing != "train" or speaker.rng.random() >= 0.05:
            return text
        style = "plain style"
    words = style if "style" in style.split() else f"{style} style"
    phrase = _NOUN.match(template) and not _FINITE.search(template)
    forms = say.STYLES if phrase else tuple(form for form in say.STYLES if ", " in form)
    form = say.STYLES[0] if text.startswith(say.PREFIXES) else speaker.pick(forms)
    return form.format(text=text.rstrip("."), style=words)


@dataclass(frozen=True)
class _Given:
    """Words that replace a scene's own; see `caption`."""

    names: Mapping[int, str]
    place: str | None
    style: str | None


def _once(scene: Scene, speaker: Speaker, given: _Given, *, full: bool, compact: bool) -> str:
    """One draw of a caption, of any length."""
    count = len(scene.things)
    alike = not compact and _alike(scene, given.names, speaker)
    if speaker.phrasing == "plain":
        template = say.PLAIN[count].lower() if compact else say.PLAIN[count]
    elif speaker.phrasing in ("held_out", "fresh"):
        table = say.HELD_OUT[count]
        if speaker.phrasing == "fresh":
            table = say.FRESH.get(count, table)
        template = table[0] if compact else speaker.pick(table)
    elif compact:
        template = stand.TAGS_PLACED[count][0] if count > 1 else say.TAGS[1][0]
    else:
        nouns = not given.names and len({thing.species for thing in scene.things}) == count
        template = _template(speaker, scene, full, alike, nouns)
    slots = speaker.slots(scene, given.names, alike)
    if alike:
        slots["n"] = speaker.pick(say.NUMBERS[count])
        slots["s"] = speaker.pick(say.PLURALS[scene.things[0].species])
    text = template.format_map(slots | speaker.place(scene, given.place))
    return _styled(text, scene, given.style, speaker, template)


def caption(
    scene: Scene,
    rng: random.Random,
    *,
    full: bool = False,
    phrasing: Phrasing = "train",
    names: Mapping[int, str] | None = None,
    place: str | None = None,
    style: str | None = None,
) -> str:
    """Describe a scene in words.

    Args:
        scene: one to three things on a background.
        rng: source of every draw; the same state gives the same caption.
        full: leave nothing unsaid: every attribute, every place in the picture, the background.
        phrasing: "train", "held_out" (wordings never trained on; nothing unsaid), "fresh" (the same
            for two things; written after the grammar was done) or "plain" (one fixed wording).
        names: noun phrases that replace those of some things, by index ("mochi cat"), without
            determiner.
        place: words for the background in place of its own, with preposition or without ("in
            candia").
        style: words for the style in place of its own ("sticko style"; the word style is added if
            missing).

    Returns:
        Lower-case words, at most `MAX_WORDS` tokens unless a given name is very long.

    Raises:
        RequestError: the scene is empty or crowded, or shows something that only a concept can
        name.
    """
    if not 1 <= len(scene.things) <= 3:
        raise RequestError(f"a caption needs 1 to 3 things, the scene has {len(scene.things)}")
    if phrasing not in get_args(Phrasing):
        raise RequestError(
            f"phrasing must be one of {', '.join(get_args(Phrasing))}, not {phrasing!r}"
        )
    spoken = full or phrasing != "train"
    speaker = Speaker(rng, phrasing, NOTHING if spoken else Drops())
    return _fitting(scene, speaker, _Given(names or {}, place, style), full)


def _fitting(scene: Scene, speaker: Speaker, given: _Given, full: bool) -> str:
    """A caption that fits the text encoder, if one can be found."""
    for _ in range(12):
        text = _once(scene, speaker, given, full=full, compact=False)
        if len(split_words(text)) <= MAX_WORDS:
            return text
    # Three dressed things: the shortest of several draws of the shortest wording.
    draws = [_once(scene, speaker, given, full=True, compact=True) for _ in range(8)]
    return min(draws, key=lambda text: len(split_words(text)))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _strings(item)


def words() -> tuple[str, ...]:
    """Every word that a caption can hold except rare tokens, in a fixed order.

    Returns:
        Punctuation first, then words by alphabet; read off the tables of the grammar, so nothing
        can be missing.
    """
    found = {"a", "an", "the", "one", "toy", "plain", "style", *BASE_COLOURS}
    for name, value in (*vars(say).items(), *vars(stand).items()):
        if name.isupper():
            for text in _strings(value):
                literal = "".join(piece for piece, *_ in Formatter().parse(text))
                found.update(split_words(literal))
    return PUNCTUATION + tuple(sorted(found - set(PUNCTUATION)))


def unknown_words(prompt: str, known: Collection[str] | None = None) -> list[str]:
    """Words of a prompt that a text encoder of this world never learned; rare tokens are known.

    Args:
        prompt: a user's wording, any case. Punctuation is never reported.
        known: words that it was trained on; all words of captions when None.

    Returns:
        Each unknown word once, lower case, in the order of the prompt.
    """
    learned = {*(words() if known is None else known), *RARE_TOKENS}
    pieces = (piece for piece in split_words(prompt) if any(letter.isalnum() for letter in piece))
    return [piece for piece in dict.fromkeys(pieces) if piece not in learned]
