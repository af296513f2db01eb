"""Noun phrases and places in drawn words: the parts that `captions` joins to sentences."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compose.errors import RequestError
from compose.world import phrasings as say
from compose.world import relations as stand
from compose.world.scene import Scene, Thing
from compose.world.vocabulary import BASE_COLOURS, RARE_TOKENS

CLOTHED = frozenset(("with", "wearing", "wears", "in"))
Phrasing = Literal["train", "held_out", "fresh", "plain"]
PREPOSITIONS = frozenset(("in", "on", "at", "by", "under", "inside", "outside", "indoors"))


@dataclass(frozen=True)
class Drops:
    """How often something seen is left unsaid, as probabilities in [0, 1].

    Attributes:
        colour: of a thing.
        pattern: stripes or spots; rarer, since a missing word should go on meaning "plain".
        accessory: hat, crown or scarf; rarer for the same reason.
        accessory_colour: colour of what is worn; small in the picture, so it needs all the words
            it can get.
        place: the background.
    """

    colour: float = 0.12
    pattern: float = 0.06
    accessory: float = 0.06
    accessory_colour: float = 0.05
    place: float = 0.10


NOTHING = Drops(0.0, 0.0, 0.0, 0.0, 0.0)


def known(table: Mapping[str, object], word: str, kind: str) -> str:
    """The word itself if the captions can say it."""
    if word not in table:
        raise RequestError(
            f"the captions have no word for the {kind} {word!r}: it is known by name only; "
            f"give names=, place= or style= with the trigger of its concept"
        )
    return word


def _article(phrase: str) -> str:
    return ("an " if phrase[:1] in "aeiou" else "a ") + phrase


def _determined(phrase: str, rng: random.Random, phrasing: Phrasing) -> str:
    """With "a", "the" or "one"; a name (trigger first) goes without as often as with."""
    first = phrase.split(maxsplit=1)[0] if phrase else ""
    if first in ("a", "an", "the", "one"):
        return phrase
    if first in RARE_TOKENS and (phrasing == "plain" or rng.random() < 0.5):
        return phrase
    draw = 0.0 if phrasing == "plain" else rng.random()
    if draw < 0.88:
        return _article(phrase)
    return ("the " if draw < 0.97 else "one ") + phrase


class Speaker:
    """Draws the words of one caption."""

    def __init__(self, rng: random.Random, phrasing: Phrasing, drops: Drops) -> None:
        self.rng = rng
        self.phrasing = phrasing
        self.drops = drops

    def pick(self, options: tuple[str, ...]) -> str:
        """One of several wordings; the first of them where the wording is fixed."""
        return options[0] if self.phrasing == "plain" else self.rng.choice(options)

    def keep(self, drop: float) -> bool:
        return self.rng.random() >= drop

    def colour(self, word: str | None) -> str:
        name = known(BASE_COLOURS, word or "", "colour")
        return self.pick(say.COLOUR_NAMES.get(name, (name,)))

    def species(self, thing: Thing) -> str:
        name = self.pick(say.SPECIES_NAMES[known(say.SPECIES_NAMES, thing.species, "species")])
        toy = self.phrasing == "train" and thing.species in say.TOYS and self.rng.random() < 0.06
        return f"toy {name}" if toy else name

    def worn(self, thing: Thing) -> str:
        """The accessory with a leading blank, or nothing."""
        if thing.accessory == "none" or not self.keep(self.drops.accessory):
            return ""
        name = self.pick(
            say.ACCESSORY_NAMES[known(say.ACCESSORY_NAMES, thing.accessory, "accessory")]
        )
        if thing.accessory_colour and self.keep(self.drops.accessory_colour):
            name = f"{self.colour(thing.accessory_colour)} {name}"
        return " " + self.pick(say.WEARING).format(it=_article(name))

    def attributes(self, thing: Thing) -> tuple[str, str]:
        """Colour and pattern, each empty where it stays unsaid. "plain" is seldom said."""
        colour = self.colour(thing.colour) if self.keep(self.drops.colour) else ""
        known(say.PATTERN_ADJECTIVES, thing.pattern, "pattern")
        if thing.pattern == "plain":
            said = self.phrasing == "train" and self.rng.random() < 0.04
        else:
            said = self.keep(self.drops.pattern)
        return colour, thing.pattern if said else ""

    def noun(self, thing: Thing, wear: str | None = None, species: str | None = None) -> str:
        """A noun phrase without determiner: "red striped cat with a blue hat".

        Args:
            thing: what is described.
            wear: replaces the accessory, with its preposition ("wearing a wizzo hat").
            species: the noun itself, where it has been chosen ("kitty").
        """
        worn = f" {wear}" if wear else self.worn(thing)
        species = species or self.species(thing)
        colour, pattern = self.attributes(thing)
        forms: tuple[str, ...] = ("{s}",)
        if colour and pattern:
            forms = say.BOTH_WORDS
        elif colour or pattern:
            forms = say.COLOUR_WORDS if colour else say.PATTERN_WORDS
        if pattern == "plain":  # there is no plural noun for no pattern
            forms = tuple(form for form in forms if "{q}" not in form)
        if worn:
            forms = tuple(form for form in forms if "in {k}" not in form)
        text = self.pick(forms).format(s=species, k=colour, **self._pattern(pattern))
        return text + worn

    def alone(self, thing: Thing) -> str:
        """What follows "one" when the species was said before: "red with stripes wearing a hat"."""
        colour, pattern = self.attributes(thing)
        colour = colour or self.colour(thing.colour)
        forms: tuple[str, ...] = say.ONE_BOTH if pattern else say.ONE_COLOUR
        if pattern == "plain":
            forms = tuple(form for form in forms if "{q}" not in form)
        return self.pick(forms).format(k=colour, **self._pattern(pattern)) + self.worn(thing)

    def _pattern(self, pattern: str) -> dict[str, str]:
        if not pattern:
            return {"p": "", "q": ""}
        return {
            "p": self.pick(say.PATTERN_ADJECTIVES[pattern]),
            "q": self.pick(say.PATTERN_NOUNS.get(pattern, ("",))),
        }

    def place(self, scene: Scene, place: str | None) -> dict[str, str]:
        """The slots where, tag and scene."""
        if place is not None:
            first = place.split()[0] if place.split() else ""
            tag = place.split(maxsplit=1)[-1] if first in PREPOSITIONS else place
            return {
                "where": place if first in PREPOSITIONS else f"in {place}",
                "tag": tag,
                "scene": tag,
            }
        name = known(say.PLACES, scene.background, "background")
        return {
            "where": self.pick(say.PLACES[name]),
            "tag": self.pick(say.PLACE_TAGS[name]),
            "scene": self.pick(say.PLACE_SCENES[name]),
        }

    def slots(self, scene: Scene, names: Mapping[int, str], alike: bool) -> dict[str, str]:
        """Noun phrases for every slot letter of a template, small and capital, and their places."""
        said, nouns = [], []
        for index, thing in enumerate(scene.things):
            if index in names:
                dressed = thing.accessory not in say.ACCESSORY_NAMES or CLOTHED.intersection(
                    names[index].split()
                )
                nouns.append(names[index])
                said.append(names[index] + ("" if dressed else self.worn(thing)))
            else:
                nouns.append(thing.species if alike else self.species(thing))
                said.append(self.alone(thing) if alike else self.noun(thing, species=nouns[-1]))
        placed = sorted(range(len(said)), key=lambda index: scene.things[index].x)
        free = list(range(len(said)))
        if self.phrasing != "plain":
            self.rng.shuffle(free)
        letters = {1: "m", 2: "lr", 3: "lmr"}[len(said)]
        slots = dict(zip(letters, (said[index] for index in placed), strict=True))
        slots.update(zip("abc", (said[index] for index in free), strict=False))
        ends, where = self._ends(scene, placed)
        slots.update(zip("xy", (said[index] for index in ends), strict=True))
        slots |= {
            letter.upper(): _determined(phrase, self.rng, self.phrasing)
            for letter, phrase in slots.items()
        }
        return slots | where | {"thing": nouns[ends[0]], "fellow": nouns[ends[1]]}

    def _ends(self, scene: Scene, placed: list[int]) -> tuple[list[int], dict[str, str]]:
        """The two outermost things in the order of mention, and the slots that say their places.

        A lone thing is both; its side is that of the picture in which it stands.
        """
        ends, sides = [placed[0], placed[-1]], list(stand.SIDES)
        turned = self.phrasing != "plain" and self.rng.random() < 0.5
        if len(placed) == 1:
            turned = scene.things[placed[0]].x > 0.5
        if turned:
            ends.reverse()
            sides.reverse()
        here = self.pick(stand.PLACED_HERE)
        there = here if self.rng.random() < 0.8 else self.pick(stand.PLACED_HERE)
        return ends, {
            "side": sides[0],
            "other": sides[1],
            "here": here.format(side=sides[0]),
            "there": there.format(side=sides[1]),
            "mid": self.pick(stand.MIDDLE),
        }
