"""What the measures are called, what they say, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Words:
    """One measure, for people.

    Attributes:
        title: a few words.
        better: which way; None where that is not known.
        meaning: one sentence.
    """

    title: str
    better: Better | None = None
    meaning: str = ""


CORPUS = ("kid", "diversity")
"""Measures of many pictures at once."""
HEADLINE = "all_primary"
"""The measure that reports open with, where the records have it."""

MEASURES: Mapping[str, Words] = MappingProxyType(
    {
        HEADLINE: Words(
            "all concepts right, in place",
            "more",
            "Share of pictures in which every adapter shows what it is recognised by (a character's"
            " colour and species), each in its place.",
        ),
        "primary": Words(
            "concepts right, in place",
            "more",
            "Share of adapters that show what they are recognised by, in their place.",
        ),
        "all_identity": Words(
            "all identities right",
            "more",
            "Share of pictures in which everything about every concept is right, patterns too.",
        ),
        "identity": Words(
            "identities right", "more", "Share of adapters with everything about them right."
        ),
        "presence": Words(
            "concepts present", "more", "Share of adapters that show, wherever they stand."
        ),
        "place": Words("in place", "more", "Of what is there: the share that stands where asked."),
        "retention": Words(
            "retention",
            "more",
            "Of the adapters that show when each acts alone: the share that still shows.",
        ),
        "bleed": Words("bleeding", "less", "Something wears what belongs to another thing."),
        "vanished": Words("vanished", "less", "Share of the things asked for that are not there."),
        "extra": Words("extra things", "less", "Things that nobody asked for, per picture."),
        "background": Words("background right", "more", "The background is the one asked for."),
        "background_damage": Words(
            "background damage",
            "less",
            "Colour distance of what lies between the things to a true background, 0 to 1.",
        ),
        "style": Words("style right", "more", "The style is the one asked for."),
        "style_strength": Words(
            "style strength", "more", "How sure the recognizer is of an adapter's style."
        ),
        "all_right": Words("nothing wrong", "more", "Every attribute, place, background, style."),
        "kid": Words(
            "distance to true pictures",
            "less",
            "Kernel distance to renders of the same scenes, on the recognizer's features; 0 for"
            " true pictures. Intervals leave out one case at a time.",
        ),
        "diversity": Words(
            "variety",
            meaning="How far the seeds of a case lie apart, over that of renders of its scenes: 1"
            " is as varied as the world, 0 always the same picture.",
        ),
    }
)
"""Measures of the embedded world in the order in which reports show them."""


def words(measure: str) -> Words:
    """The words of a measure, or its name; ``presence/mochi`` speaks of one adapter."""
    kind, _, adapter = measure.partition("/")
    known = MEASURES.get(kind, Words(kind))
    return Words(f"{known.title}: {adapter}", known.better, known.meaning) if adapter else known


def sign(measure: str) -> int:
    """1 where more is better or nothing is known, -1 where less is."""
    return -1 if words(measure).better == "less" else 1


def ordered(measures: Iterable[str]) -> list[str]:
    """Known measures first, in the order of `MEASURES`; those of single adapters last."""
    known = list(MEASURES)

    def rank(measure: str) -> tuple[bool, int, str]:
        kind = measure.partition("/")[0]
        return "/" in measure, known.index(kind) if kind in known else len(known), measure

    return sorted(measures, key=rank)
