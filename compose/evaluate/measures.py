"""What is measured of one picture: small pure functions of what was asked and what is there.

A measure says None where it has nothing to say, such as the place of something that vanished.
Shares and probabilities lie in [0, 1]; of `bleed`, `vanished`, `extra` and `background_damage` less
is better, of all others more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from compose.evaluate.cases import Asked, Part
from compose.world.reading import Reading
from compose.world.recognizer import PICTURE_HEADS
from compose.world.renderer import render
from compose.world.sampling import HALF_WIDTH
from compose.world.scene import Scene
from compose.world.score import SceneScore, ThingScore, score

_SIDE = 64  # pixels at which backgrounds are compared
_CELL = 8  # of these pixels; the side of a cell
_STEALABLE = ("species", "colour", "pattern", "accessory")
_REFERENCES = 24  # ways in which a background may look


@dataclass(frozen=True)
class Sight:
    """One picture beside what was asked.

    Attributes:
        asked: what it must show.
        reading: what the recognizer saw in it.
        picture: [3, 128, 128] in [0, 1].
    """

    asked: Asked
    reading: Reading
    picture: Tensor

    @cached_property
    def verdict(self) -> SceneScore:
        """Words read against words asked for."""
        return score(self.reading, self.asked.expectation)

    def thing(self, part: Part) -> ThingScore | None:
        """The verdict on the thing that an adapter answers for."""
        return None if part.thing is None else self.verdict.things[part.thing]


def presence(sight: Sight, part: Part) -> float:
    """What the adapter is recognised by is there, wherever it stands."""
    return _right(sight, part, part.primary)


def place(sight: Sight, part: Part) -> float | None:
    """What stands for it stands where it was asked to; nothing is said where nothing stands."""
    thing = sight.thing(part)
    if thing is None or thing.vanished or thing.asked.place is None:
        return None
    return float(thing.place)


def primary(sight: Sight, part: Part) -> float:
    """It is there and in its place: the figure that methods are compared by."""
    return presence(sight, part) * _at_home(sight, part)


def identity(sight: Sight, part: Part) -> float:
    """Everything about it is right, and in its place."""
    return _right(sight, part, part.identity) * _at_home(sight, part)


def bleed(sight: Sight) -> float | None:
    """Something has the species, colour, pattern or accessory of another thing that was asked for
    instead of its own; nothing is said of fewer than two things."""
    things = sight.verdict.things
    if len(things) < 2:
        return None
    return float(any(_steals(thing, things, name) for thing in things for name in _STEALABLE))


def vanished(sight: Sight) -> float | None:
    """Share of the things asked for that nothing stands for."""
    things = sight.verdict.things
    return sight.verdict.vanished / len(things) if things else None


def extra(sight: Sight) -> float:
    """How many things there are that nobody asked for."""
    return float(sight.verdict.extra)


def background(sight: Sight) -> float | None:
    """The background that was asked for is recognised."""
    wanted = sight.asked.expectation.background
    return None if wanted is None else float(sight.verdict.background)


def background_damage(sight: Sight) -> float | None:
    """How far what lies between the things is from the renderer's own background, in [0, 1].

    Mean difference of colour over cells of 16 pixels that no thing covers, each to the nearest of
    several renders in the style that was asked for.
    """
    wanted = sight.asked.expectation
    free = _free(sight.reading)  # [64, 64]
    if wanted.background is None or not bool(free.any()):
        return None
    references = _backgrounds(wanted.background, wanted.style or "plain")
    share = functional.avg_pool2d(free[None, None], _CELL)  # [1, 1, 8, 8]
    kept = share[0, 0] >= 0.5

    def cells(pictures: Tensor) -> Tensor:
        """[R, 3, 64, 64] to the mean colours of their free parts [R, 3, 8, 8]."""
        return functional.avg_pool2d(pictures * free, _CELL) / share.clamp_min(1e-6)

    own = cells(functional.avg_pool2d(sight.picture[None], 2))
    apart = (cells(references) - own).abs().mean(1).amin(0)  # [8, 8]
    return float(apart[kept].mean()) if bool(kept.any()) else None


def style(sight: Sight) -> float | None:
    """The style that was asked for is recognised; also when that is the plain one."""
    wanted = sight.asked.expectation.style
    return None if wanted is None else float(sight.verdict.style)


def style_strength(sight: Sight) -> float | None:
    """How sure the recognizer is of the style that an adapter should bring."""
    wanted = sight.asked.expectation.style
    if wanted in (None, "plain"):
        return None
    words = PICTURE_HEADS["style"]
    return float(sight.reading.probabilities["style"][words.index(str(wanted))])


def all_right(sight: Sight) -> float:
    """Nothing at all is wrong: every attribute, place, background, style, nothing extra."""
    return float(sight.verdict.all_right)


PART_MEASURES: tuple[Callable[[Sight, Part], float | None], ...] = (
    presence,
    place,
    primary,
    identity,
)
"""Of each adapter; recorded as ``presence/mochi`` and, meaned over adapters, as ``presence``."""

MEASURES: tuple[Callable[[Sight], float | None], ...] = (
    bleed,
    vanished,
    extra,
    background,
    background_damage,
    style,
    style_strength,
    all_right,
)
"""Of the whole picture."""


def measure(sight: Sight) -> dict[str, float | None]:
    """Every measure of a picture, by name."""
    parts = measure_parts(sight, sight.asked.parts)
    whole = {function.__name__: function(sight) for function in MEASURES}
    return {**summary(parts, sight.asked.parts), **whole, **parts}


def measure_parts(sight: Sight, parts: Iterable[Part]) -> dict[str, float | None]:
    """The measures of some adapters, such as ``presence/mochi``."""
    return {
        f"{function.__name__}/{part.adapter}": function(sight, part)
        for part in parts
        for function in PART_MEASURES
    }


def summary(measured: Mapping[str, float | None], parts: Iterable[Part]) -> dict[str, float | None]:
    """Means over adapters, and whether all of them are right."""
    names = [part.adapter for part in parts]
    out: dict[str, float | None] = {}
    for function in PART_MEASURES:
        kind = function.__name__
        known = [v for name in names if (v := measured[f"{kind}/{name}"]) is not None]
        out[kind] = sum(known) / len(known) if known else None
        if function in (primary, identity):
            out[f"all_{kind}"] = float(all(known))
    return out


def retention(
    measured: Mapping[str, float | None], ceiling: Mapping[str, float | None]
) -> float | None:
    """Of the adapters that show (`primary`) when each acts alone, the share that still shows.

    Args:
        measured: of this picture.
        ceiling: of the row "alone", same case and seed.

    Returns:
        None when no adapter shows alone.
    """
    alone = [name for name, v in ceiling.items() if name.startswith("primary/") and v]
    return sum(measured[name] or 0.0 for name in alone) / len(alone) if alone else None


def _right(sight: Sight, part: Part, attributes: Iterable[str]) -> float:
    """1 where all these attributes are right, else 0."""
    thing = sight.thing(part)
    if thing is None:
        return float(all(getattr(sight.verdict, name) for name in attributes))
    return float(thing.found and all(thing.right[name] for name in attributes))


def _at_home(sight: Sight, part: Part) -> float:
    thing = sight.thing(part)
    return 1.0 if thing is None else float(thing.place)


def _steals(thing: ThingScore, things: Iterable[ThingScore], name: str) -> bool:
    """Whether it has an attribute of another instead of its own; plain and none are nobody's."""
    own = getattr(thing.asked, name)
    if thing.seen is None or own is None:
        return False
    worn = getattr(thing.seen, name)
    others = (getattr(other.asked, name) for other in things if other is not thing)
    return worn not in (own, "plain", "none") and worn in others


def _free(reading: Reading) -> Tensor:
    """1 where no thing is, else 0; [64, 64]. What is worn on the head counts as the thing."""
    free = torch.ones(_SIDE, _SIDE)
    for seen in reading.things:
        wide, tall = HALF_WIDTH[seen.species] * seen.size, 0.55 * seen.size
        head = 0.8 * seen.size if seen.accessory != "none" else tall
        left, right = (_pixel(seen.x - wide), _pixel(seen.x + wide) + 1)
        top, bottom = (_pixel(seen.y - head), _pixel(seen.y + tall) + 1)
        free[top:bottom, left:right] = 0.0
    return free


def _pixel(share: float) -> int:
    return min(max(int(share * _SIDE), 0), _SIDE)


@lru_cache(maxsize=32)
def _backgrounds(background: str, style: str) -> Tensor:
    """Empty scenes in different light and with different details, [24, 3, 64, 64]."""
    rng = Random(f"background {background}")
    scenes = [
        Scene((), background, style, (i + 0.5) / _REFERENCES, rng.getrandbits(24))
        for i in range(_REFERENCES)
    ]
    return functional.avg_pool2d(render(scenes), 2)
