"""Random scenes of the embedded world: what stands where, in which colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Literal

from compose.errors import RequestError
from compose.world import vocabulary as words_of
from compose.world.drawing.palette import rgb
from compose.world.scene import Scene, Thing
from compose.world.vocabulary import ANIMALS, COLOURS

Words = Literal["base", "all"]

COUNT_SHARES = (0.35, 0.53, 0.12)
ACCESSORY_SHARE = 0.35
STYLE_SHARE = 0.25
_TWIN_SHARE = 0.06  # a second thing takes over the first one's species, or its colour
_FAR = 150.0  # weighted RGB distance from which two colours are told apart on one body

# Half width and height above the centre of each figure, in heights of the thing.
HALF_WIDTH = {
    "cat": 0.42, "dog": 0.4, "rabbit": 0.36, "bear": 0.4, "bird": 0.42, "robot": 0.4, "car": 0.5,
    "house": 0.46, "tree": 0.4, "mug": 0.46, "ball": 0.44, "rocket": 0.34, "cake": 0.47,
}  # fmt: skip
_HEAD_ROOM = {"hat": 0.57, "crown": 0.56, "wizard": 0.72}
# Middle of each slot and the largest half width that fits it, by number of things.
_SLOTS = {1: (0.5,), 2: (0.265, 0.735), 3: (0.175, 0.5, 0.825)}
_REACH = {1: 0.42, 2: 0.25, 3: 0.163}
_SIZES = {1: (0.46, 0.82), 2: (0.44, 0.58), 3: (0.35, 0.42)}


def sample_scene(
    rng: Random,
    *,
    words: Words = "base",
    count: int | None = None,
    centred: bool = False,
    shares: Sequence[float] = COUNT_SHARES,
    dressed: float = ACCESSORY_SHARE,
) -> Scene:
    """Draw a scene.

    Args:
        rng: source of every draw; the same state gives the same scene.
        words: "base" for what the base model knows, "all" to mix in what only concepts name.
        count: how many things, 1 to 3; drawn by `shares` when None.
        centred: each thing in the middle of its slot and at its slot's middle size, without jitter.
        shares: of scenes with one, two and three things.
        dressed: share of the animals that wear something, in [0, 1]; its colour is drawn evenly
            from all that stand out from the body's.

    Returns:
        A scene whose things are named from left to right and cover no attribute of each other.

    Raises:
        RequestError: a count outside 1 to 3.
    """
    if count is None:
        count = rng.choices((1, 2, 3), shares)[0]
    if count not in _SLOTS:
        raise RequestError(f"a scene of {count} things was asked for; a picture holds 1, 2 or 3")
    things: list[Thing] = []
    for _ in range(count):
        things.append(_identity(rng, words, things[0] if things else None, dressed))
    placed = placed_things(rng, things, centred=centred)
    backgrounds = words_of.BASE_BACKGROUNDS if words == "base" else words_of.BACKGROUNDS
    styled = words == "all" and rng.random() < STYLE_SHARE
    return Scene(
        tuple(placed),
        rng.choice(backgrounds),
        rng.choice(words_of.CONCEPT_STYLES) if styled else "plain",
        rng.random(),
        rng.getrandbits(24),
    )


def sample_pose(rng: Random, thing: Thing) -> Thing:
    """The same thing turned, tilted and posed at random."""
    lean = 6.0 if thing.animal else 3.0
    return replace(thing, flip=rng.random() < 0.5, tilt=rng.uniform(-lean, lean), pose=rng.random())


def place(
    rng: Random, thing: Thing, low: float = 0.46, high: float = 0.82, centred: bool = False
) -> Thing:
    """Put a lone thing anywhere in the middle half of the picture, feet on the ground.

    Args:
        rng: source of the draws.
        thing: what to place.
        low, high: smallest and largest size; half of the draws lie near the smallest, the scale of
            pairs.
        centred: in the middle of the picture, at the middle size.
    """
    near = min(low + 0.12, high)
    size = (
        (low + high) / 2
        if centred
        else rng.uniform(low, near)
        if rng.random() < 0.5
        else rng.uniform(near, high)
    )
    foot = 0.9 if centred else rng.uniform(0.82, 0.955)
    size = min(size, _REACH[1] / HALF_WIDTH[thing.species], _tallest(thing, foot))
    half = HALF_WIDTH[thing.species] * size
    x = 0.5 if centred else rng.uniform(max(0.25, half + 0.01), min(0.75, 0.99 - half))
    return thing.at(x, foot - size / 2, size)


def distinct(first: str, second: str) -> bool:
    """Whether two colours (words or codes) are told apart at a glance when they meet on one body.

    Red-mean weighted RGB distance, https://www.compuphase.com/cmetric.htm.
    """
    one, two = rgb(first), rgb(second)
    mean = (one[0] + two[0]) / 512
    r, g, b = ((p - q) ** 2 for p, q in zip(one, two, strict=True))
    return bool(((2 + mean) * r + 4 * g + (3 - mean) * b) ** 0.5 > _FAR)


@lru_cache(maxsize=64)
def _partners(colour: str) -> tuple[str, ...]:
    """Colours that differ clearly from this one."""
    return tuple(name for name in COLOURS if distinct(colour, name))


def _identity(rng: Random, words: Words, first: Thing | None, dressed: float) -> Thing:
    """Species, colour, pattern and accessory of one thing."""
    everything = words == "all"
    species = rng.choice(words_of.SPECIES if everything else words_of.BASE_SPECIES)
    colours = tuple(COLOURS) if everything else tuple(words_of.BASE_COLOURS)
    colour = rng.choice(colours)
    if first is not None:
        species = first.species if rng.random() < _TWIN_SHARE else species
        colour = first.colour if rng.random() < _TWIN_SHARE else colour
    pattern, second = "plain", None
    if everything:
        pattern = rng.choice((*words_of.PATTERNS, "plain", "striped", "spotted"))
        if pattern in words_of.CONCEPT_PATTERNS or (pattern != "plain" and rng.random() < 0.4):
            second = rng.choice(_partners(colour))
    else:
        pattern = rng.choices(words_of.BASE_PATTERNS, (0.44, 0.28, 0.28))[0]
    accessory, wear = "none", None
    if species in ANIMALS and rng.random() < dressed:
        kinds = words_of.ACCESSORIES if everything else words_of.BASE_ACCESSORIES
        accessory = rng.choice([kind for kind in kinds if kind != "none"])
        wear = rng.choice([c for c in _partners(colour) if c in colours and c != second])
    return Thing(species, colour, pattern, second, accessory, wear)


def placed_things(rng: Random, things: Sequence[Thing], *, centred: bool = False) -> list[Thing]:
    """Give one to three things places, sizes and poses, named from left to right.

    Args:
        rng: source of the draws.
        things: their looks.
        centred: each in the middle of its slot, without jitter.
    """
    if len(things) == 1:
        return [sample_pose(rng, place(rng, things[0], *_SIZES[1], centred=centred))]
    count = len(things)
    low, high = _SIZES[count]
    ground = 0.9 if centred else rng.uniform(0.86, 0.94)
    placed = []
    for thing, middle in zip(things, _SLOTS[count], strict=True):
        foot = ground if centred else min(ground + rng.uniform(-0.05, 0.03), 0.955)
        size = (low + high) / 2 if centred else rng.uniform(low, high)
        size = min(size, _REACH[count] / HALF_WIDTH[thing.species], _tallest(thing, foot))
        slack = (
            0.0
            if centred
            else min(0.05, max(0.5 / count - HALF_WIDTH[thing.species] * size, 0.01) * 0.8)
        )
        half = HALF_WIDTH[thing.species] * size
        x = min(max(middle + rng.uniform(-slack, slack), half), 1 - half)
        placed.append(sample_pose(rng, thing.at(x, foot - size / 2, size)))
    return placed


def _tallest(thing: Thing, foot: float) -> float:
    """The largest size at which the thing, hat included, stays in the picture."""
    return (foot - 0.01) / (0.5 + _HEAD_ROOM.get(thing.accessory, 0.5))
