"""Is the picture what was asked for? Words asked for against words read, thing by thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from compose.errors import RequestError
from compose.world.reading import Reading, Seen
from compose.world.recognizer import COLOUR_HEADS, COLOURLESS_STYLES, THING_HEADS
from compose.world.scene import Scene, Thing

Place = Literal["left", "middle", "right"]
ATTRIBUTES = ("species", "colour", "pattern", "second", "accessory", "accessory_colour")
_PLACES: dict[int, tuple[Place, ...]] = {2: ("left", "right"), 3: ("left", "middle", "right")}
_RANK: dict[Place, int] = {"left": 0, "middle": 1, "right": 2}
_WEIGHT = {
    "species": 4.0,
    "colour": 3.0,
    "pattern": 1.5,
    "second": 0.5,
    "accessory": 1.0,
    "accessory_colour": 1.0,
}
_AT_HOME = 1.0  # worth of standing where it should
_MOST = 3  # things asked for: matching tries every assignment


@dataclass(frozen=True)
class Expected:
    """What is asked of one thing; None leaves an attribute open.

    Attributes:
        species, colour, pattern, second, accessory, accessory_colour: words of the vocabulary
            ("none" is a word).
        place: where among the others it stands.
    """

    species: str | None = None
    colour: str | None = None
    pattern: str | None = None
    second: str | None = None
    accessory: str | None = None
    accessory_colour: str | None = None
    place: Place | None = None

    @classmethod
    def of(cls, thing: Thing, place: Place | None = None) -> Expected:
        """Everything about a thing that there are words for; a code such as #20a8a0 stays open."""
        words = {name: getattr(thing, name) for name in ATTRIBUTES}
        return cls(**{n: w for n, w in words.items() if w in THING_HEADS[n]}, place=place)

    def without_colours(self) -> Expected:
        """The same with every colour left open."""
        return replace(self, **dict.fromkeys(COLOUR_HEADS))


@dataclass(frozen=True)
class Expectation:
    """What is asked of a picture: up to three things; background, style None when open."""

    things: tuple[Expected, ...]
    background: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        if len(self.things) > _MOST:
            raise RequestError(
                f"{len(self.things)} things are asked for, at most {_MOST} can be matched; "
                "ask for fewer"
            )


@dataclass(frozen=True)
class ThingScore:
    """One thing that was asked for.

    Attributes:
        asked: what was asked.
        seen: what stands for it in the picture, None when it vanished.
        right: attribute -> right or wrong, only for attributes that were asked.
        place: stands where it was asked to; True when no place was asked, False when it vanished.
        bleed: wears the colour or the pattern of another thing that was asked for instead of its
            own.
    """

    asked: Expected
    seen: Seen | None
    right: dict[str, bool]
    place: bool
    bleed: bool

    @property
    def found(self) -> bool:
        """Something stands for it."""
        return self.seen is not None

    @property
    def vanished(self) -> bool:
        """Nothing stands for it."""
        return self.seen is None

    @property
    def colour_species(self) -> bool:
        """The primary figure: species and colour right (where asked) and in its place."""
        return (
            self.place
            and self.found
            and all(self.right.get(n, True) for n in ("species", "colour"))
        )

    @property
    def identity(self) -> bool:
        """Every attribute that was asked is right, and in its place."""
        return self.place and self.found and all(self.right.values())


@dataclass(frozen=True)
class SceneScore:
    """One picture against what was asked.

    Attributes:
        things: in the order they were asked.
        extra: things in the picture that nobody asked for.
        background, style: right, or left open.
    """

    things: tuple[ThingScore, ...]
    extra: int
    background: bool
    style: bool

    @property
    def vanished(self) -> int:
        """Things asked for that are not there."""
        return sum(thing.vanished for thing in self.things)

    @property
    def bleed(self) -> bool:
        """Some thing wears what belongs to another."""
        return any(thing.bleed for thing in self.things)

    @property
    def colour_species(self) -> bool:
        """Every thing has its species and colour, in its place."""
        return all(thing.colour_species for thing in self.things)

    @property
    def all_right(self) -> bool:
        """Nothing wrong: every attribute, place, background, style, nothing extra."""
        things = all(thing.identity for thing in self.things)
        return things and not self.extra and self.background and self.style


def expectation(scene: Scene, *, placed: bool = True) -> Expectation:
    """Everything about a scene, as a demand.

    Args:
        scene: what was drawn or fully described.
        placed: whether left, middle and right were said; things of a scene of one may stand
            anywhere.
    """
    order = sorted(range(len(scene.things)), key=lambda i: scene.things[i].x)
    names = _PLACES.get(len(order), ()) if placed else ()
    places = {i: name for i, name in zip(order, names, strict=False)}
    things = tuple(Expected.of(thing, places.get(i)) for i, thing in enumerate(scene.things))
    if scene.style in COLOURLESS_STYLES:
        things = tuple(thing.without_colours() for thing in things)
    return Expectation(things, scene.background, scene.style)


def score(reading: Reading, wanted: Scene | Expectation) -> SceneScore:
    """Compare a picture with what was asked for.

    Args:
        reading: of `compose.world.reading.read`.
        wanted: a scene (everything counts, also left to right order), or only what was asked.

    Raises:
        RequestError: for more than three things.
    """
    asked = expectation(wanted) if isinstance(wanted, Scene) else wanted
    matched = match(reading.things, asked.things)
    things = tuple(_thing(i, asked.things, matched) for i in range(len(asked.things)))
    return SceneScore(
        things=things,
        extra=len(reading.things) - sum(seen is not None for seen in matched),
        background=asked.background in (None, reading.background),
        style=asked.style in (None, reading.style),
    )


def match(seen: Sequence[Seen], asked: Sequence[Expected]) -> list[Seen | None]:
    """Which seen thing stands for which asked one: the assignment of greatest likeness.

    Args:
        seen: any number; only the most fitting few are tried.
        asked: at most three.

    Returns:
        One entry an asked thing, None where nothing stands for it.
    """
    worth = [[_likeness(s, e, len(asked)) for s in seen] for e in asked]
    column = [max((row[j] for row in worth), default=0.0) for j in range(len(seen))]
    pool = sorted(range(len(seen)), key=lambda j: -column[j])[: 2 * _MOST]
    best: tuple[int | None, ...] = (None,) * len(asked)
    most = 0.0
    for choice in product((None, *pool), repeat=len(asked)):
        taken = [j for j in choice if j is not None]
        total = sum(worth[i][j] for i, j in enumerate(choice) if j is not None)
        if total > most + 1e-9 and len(set(taken)) == len(taken):
            best, most = choice, total
    return [None if j is None else seen[j] for j in best]


def _likeness(one: Seen, wanted: Expected, count: int) -> float:
    """Worth of a seen thing for an asked one; above 0 even when all is wrong."""
    asked = [name for name in ATTRIBUTES if getattr(wanted, name) is not None]
    same = sum(_WEIGHT[name] for name in asked if getattr(wanted, name) == getattr(one, name))
    if wanted.place is None:
        return same + 0.1
    return same + 0.1 + _AT_HOME * (1 - min(1.0, 2 * abs(one.x - _home(wanted.place, count))))


def _home(place: Place, count: int) -> float:
    """Where a place lies across the picture, 0 to 1."""
    return (
        {"left": 0.25, "middle": 0.5, "right": 0.75}[place]
        if count < 3
        else 0.2 + 0.3 * _RANK[place]
    )


def _thing(index: int, asked: Sequence[Expected], matched: Sequence[Seen | None]) -> ThingScore:
    wanted, seen = asked[index], matched[index]
    names = [name for name in ATTRIBUTES if getattr(wanted, name) is not None]
    if seen is None:
        return ThingScore(wanted, None, dict.fromkeys(names, False), place=False, bleed=False)
    right = {name: getattr(seen, name) == getattr(wanted, name) for name in names}
    others = [other for i, other in enumerate(asked) if i != index]
    bleed = any(
        _stolen(seen, wanted, other, name) for other in others for name in ("colour", "pattern")
    )
    return ThingScore(wanted, seen, right, _in_place(index, asked, matched), bleed)


def _stolen(seen: Seen, own: Expected, other: Expected, name: str) -> bool:
    """Whether an attribute is another's and not its own; being plain is nobody's."""
    worn, mine = getattr(seen, name), getattr(own, name)
    return mine is not None and worn != mine and worn == getattr(other, name) and worn != "plain"


def _in_place(index: int, asked: Sequence[Expected], matched: Sequence[Seen | None]) -> bool:
    """Left of everything that belongs to its right and so on; alone, on its own side."""
    wanted, seen = asked[index], matched[index]
    if wanted.place is None or seen is None:
        return seen is not None
    rivals = [
        (_RANK[other.place] - _RANK[wanted.place], found.x - seen.x)
        for i, (other, found) in enumerate(zip(asked, matched, strict=True))
        if i != index and found is not None and other.place is not None
    ]
    if rivals:
        return all(rank * distance > 0 for rank, distance in rivals if rank)
    low, high = {"left": (0.0, 0.5), "middle": (0.3, 0.7), "right": (0.5, 1.0)}[wanted.place]
    return low <= seen.x <= high


def similarity(seen: Seen, references: Tensor) -> float:
    """How much a thing looks like references, also of a character that no word describes.

    Args:
        seen: with its embedding.
        references: [R, 64] embeddings of reference pictures, R >= 1.

    Returns:
        Cosine to the mean direction of the references, -1 to 1.
    """
    if seen.embedding is None:
        return 0.0
    return float(F.cosine_similarity(seen.embedding, references.mean(0), dim=0))
