"""From pictures and what was asked of them to figures and cells of a sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from compose.evaluate.sheets import Cell
from compose.evaluate.statistics import Figure
from compose.world.concepts import Concept
from compose.world.reading import Reading, Seen, read
from compose.world.recognizer import THING_HEADS, Recognizer
from compose.world.scene import Scene
from compose.world.score import ATTRIBUTES, Expectation, Expected, Place, SceneScore, score


@dataclass(frozen=True)
class Judged:
    """Pictures with their verdicts.

    Attributes:
        images: [N, 3, 128, 128] in [0, 1].
        prompts: N texts.
        readings: what was read.
        scores: what was right.
    """

    images: Tensor
    prompts: Sequence[str]
    readings: Sequence[Reading]
    scores: Sequence[SceneScore]

    def figure(self, name: str, right: Callable[[SceneScore], bool]) -> Figure:
        """The share of pictures of which something holds."""
        return Figure.of(name, map(right, self.scores))

    def rescored(self, asked: Sequence[Expectation]) -> Judged:
        """The same pictures against another demand."""
        scores = [
            score(reading, demand) for reading, demand in zip(self.readings, asked, strict=True)
        ]
        return Judged(self.images, self.prompts, self.readings, scores)

    def cells(self, count: int, right: Callable[[SceneScore], bool]) -> list[Cell]:
        """The first pictures for a sheet; wrong ones say what was read."""
        return [
            Cell(
                self.images[i],
                self.prompts[i],
                "" if right(self.scores[i]) else describe(self.readings[i]),
            )
            for i in range(min(count, len(self.images)))
        ]


def judge(
    recognizer: Recognizer, images: Tensor, prompts: Sequence[str], asked: Sequence[Expectation]
) -> Judged:
    """Read pictures and compare each with what was asked.

    Args:
        recognizer: of `load_recognizer`.
        images: [N, 3, 128, 128] in [0, 1].
        prompts: N texts.
        asked: N demands.
    """
    readings = read(recognizer, images)
    scores = [score(reading, demand) for reading, demand in zip(readings, asked, strict=True)]
    return Judged(images, prompts, readings, scores)


def describe(reading: Reading) -> str:
    """What was read, in few letters."""
    things = " + ".join(_short(thing) for thing in reading.things) or "nothing"
    return f"{things}, {reading.background}"


def _short(seen: Seen) -> str:
    pattern = "" if seen.pattern == "plain" else f" {seen.pattern}"
    worn = "" if seen.accessory == "none" else f" {seen.accessory}"
    return f"{seen.colour}{pattern} {seen.species}{worn}"


def attribute_figures(label: str, scores: Iterable[SceneScore]) -> list[Figure]:
    """The share right of each attribute, over things of which it was asked."""
    things = [thing for one in scores for thing in one.things]
    found = [
        Figure.of(f"{label} / {n}", [t.right[n] for t in things if n in t.right])
        for n in ATTRIBUTES
    ]
    places = Figure.of(f"{label} / place", [thing.place for thing in things])
    return [figure for figure in (*found, places) if figure.total]


def concept_demand(concept: Concept, scene: Scene) -> tuple[Expectation, Expectation]:
    """What a picture of a concept must show, at least and in full.

    Args:
        concept: what was called by its trigger.
        scene: one thing, as it was described in the prompt.

    Returns:
        The primary demand (species and colour of a character, the garment, the background, the
        style, the shape of an object) and the demand for everything.
    """
    whole = Expectation(tuple(Expected.of(t) for t in scene.things), scene.background, scene.style)
    first = Expected.of(scene.things[0])
    if concept.category == "style":
        return Expectation((), style=scene.style), Expectation(
            (Expected(first.species),), None, scene.style
        )
    if concept.category == "background":
        return Expectation((), background=scene.background), Expectation(
            whole.things, scene.background
        )
    if concept.category == "clothing":
        worn = Expected(species=first.species, accessory=first.accessory)
        return Expectation((worn,)), Expectation(whole.things)
    if concept.category == "object":
        return Expectation((Expected(species=first.species),)), Expectation((fixed(concept),))
    return Expectation((Expected(first.species, first.colour),)), Expectation((fixed(concept),))


def fixed(concept: Concept, place: Place | None = None) -> Expected:
    """Everything a concept says about its thing in words; the rest is open."""
    said = {
        name: word
        for name, word in (concept.thing or {}).items()
        if word in THING_HEADS.get(name, ())
    }
    return Expected(**said, place=place)
