"""Questions with known answers: combinations of adapters to prompts, and what they must show."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from compose.errors import SuiteError
from compose.evaluate.suite import Group, Suite
from compose.world.captions import MAX_WORDS, caption, split_words
from compose.world.concepts import Concept, shipped
from compose.world.sampling import distinct, placed_things, sample_scene
from compose.world.scene import Scene, Thing
from compose.world.score import Expectation, expectation
from compose.world.speaker import NOTHING, Speaker
from compose.world.vocabulary import BASE_ACCESSORIES, BASE_COLOURS

SHARED = 2
"""Seeds in a row that share one prompt; then sides change and words are drawn anew."""
_LOOKS = ("species", "colour", "pattern", "second")
_ATTRIBUTES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "character": (("species", "colour"), _LOOKS),
    "object": (("species",), _LOOKS),
    "clothing": (("accessory",), ("accessory", "accessory_colour")),
}  # primary and identity of a `Part`
SLOTS = {1: ("it",), 2: ("left", "right"), 3: ("left", "middle", "right")}


@dataclass(frozen=True)
class Part:
    """What one adapter adds to a picture.

    Attributes:
        adapter: its name.
        thing: index of the thing of the expectation that it is, or that wears it; None for a
            background or a style.
        primary: attributes by which it is recognised.
        identity: everything about it that there are words for; "background" or "style" where it is
            one.
    """

    adapter: str
    thing: int | None
    primary: tuple[str, ...]
    identity: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What a picture must show.

    Attributes:
        expectation: all of it.
        parts: which of it each adapter answers for, in the order of the request.
    """

    expectation: Expectation
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Case:
    """One question: the same for every row of a table.

    Attributes:
        name: group, combination (with its strength where it is not 1) and number of the prompt,
            such as ``pairs/mochi+ember/0``.
        origin: suite, group and combination; the same at every strength. Draws are made from it.
        adapters: names, in the order of the request.
        weight: of every adapter.
        prompt: with all triggers.
        things: looks from left to right; their places in a scene are drawn.
        background, style: words of the vocabulary.
        asked: what must be there.
    """

    name: str
    origin: str
    adapters: tuple[str, ...]
    weight: float
    prompt: str
    things: tuple[Thing, ...]
    background: str
    style: str
    asked: Asked

    def noise(self, seed: int) -> int:
        """Seed of the noise of a picture: every case has its own, since the same noise gives the
        same layout whatever is asked, and few noises would be a small sample however many cases."""
        digest = hashlib.sha256(f"noise {self.origin} {seed}".encode()).digest()
        return int.from_bytes(digest[:4], "big")

    def scene(self, seed: int) -> Scene:
        """A scene that answers the question; places, poses and light are drawn by the seed."""
        rng = Random(f"answer {self.origin} {seed}")
        placed = tuple(placed_things(rng, self.things))
        return Scene(placed, self.background, self.style, rng.random(), rng.getrandbits(24))


def make_cases(suite: Suite, seeds: int) -> list[tuple[Case, int]]:
    """Every case of a suite with every one of its seeds, in the order in which they are worked off.

    All combinations come once before any comes again, in a drawn order, so that a run that is cut
    off has seen a fair sample of the suite.

    Args:
        suite: as read.
        seeds: how many each combination gets: 0, 1 and so on. Seeds 0 and 1 share the prompt of
            arrangement 0, seeds 2 and 3 that of arrangement 1; from one to the next the sides
            change.

    Raises:
        SuiteError: a prompt does not fit the text encoder.
    """
    concepts = {concept.name: concept for concept in shipped()}
    asked = [
        (group, number, weight)
        for group in suite.groups
        for number in range(len(group.combinations))
        for weight in group.weights
    ]
    Random(f"order {suite.name}").shuffle(asked)
    made: dict[tuple[int, int], Case] = {}
    out = []
    for seed in range(seeds):
        for index, (group, number, weight) in enumerate(asked):
            turn = seed // SHARED
            if (index, turn) not in made:
                made[index, turn] = _case(suite, group, number, weight, turn, concepts)
            out.append((made[index, turn], seed))
    return out


def cases_hash(suite: Suite) -> str:
    """Identity of a suite: changes with whatever changes its prompts or what they must show."""
    cases = dict.fromkeys(case for case, _ in make_cases(suite, 2 * SHARED))
    return hashlib.sha256(repr(sorted(map(repr, cases))).encode()).hexdigest()


def _case(
    suite: Suite,
    group: Group,
    number: int,
    weight: float,
    turn: int,
    concepts: Mapping[str, Concept],
) -> Case:
    names = group.combinations[number]
    used = _turned([concepts[name] for name in names], number)
    origin = f"{suite.name} {group.name} {'+'.join(names)}"
    rng = Random(f"case {origin} {turn}")
    shown = _row([concepts[name] for name in names], number, turn)
    scene = _scene(rng, group, used, shown)
    scene = replace(scene, things=tuple(placed_things(rng, scene.things)))
    prompt = _prompt(rng, group, used, shown, scene)
    if len(split_words(prompt)) > MAX_WORDS:
        raise SuiteError(
            f"suite {suite.name}: group {group.name}: the prompt {prompt!r} of"
            f" {'+'.join(names)} has more than {MAX_WORDS} words; expected fewer adapters"
        )
    strength = "" if weight == 1 else f"@{weight:g}"
    wanted = expectation(scene)
    return Case(
        name=f"{group.name}/{'+'.join(names)}{strength}/{turn}",
        origin=origin,
        adapters=tuple(concept.name for concept in used),
        weight=weight,
        prompt=prompt,
        things=scene.things,
        background=scene.background,
        style=scene.style,
        asked=Asked(wanted, tuple(_part(concept, used, shown, wanted) for concept in used)),
    )


def _turned(used: Sequence[Concept], number: int) -> list[Concept]:
    """Characters change places among themselves from one combination to the next, so that over a
    suite none is favoured by methods to which the order matters."""
    first = [concept for concept in used if concept.category == "character"]
    turn = number % max(len(first), 1)
    rest = [concept for concept in used if concept.category != "character"]
    return [*first[turn:], *first[:turn], *rest]


def _row(used: Sequence[Concept], number: int, turn: int) -> list[Concept]:
    """Characters and objects from left to right: turned from one combination to the next, and
    mirrored from one arrangement to the next, so that each stands left as often as right."""
    figures = [c for c in used if c.category in ("character", "object")]
    start = (number + turn // 2) % max(len(figures), 1)
    row = [*figures[start:], *figures[:start]]
    return row[::-1] if turn % 2 else row


def _scene(rng: Random, group: Group, used: Sequence[Concept], shown: Sequence[Concept]) -> Scene:
    """What the combination looks like, things from left to right and not yet placed."""
    drawn = sample_scene(rng, count=max(len(shown), 1), dressed=0.0)
    scene = drawn
    for index, concept in enumerate(shown):
        scene = concept.apply(scene, index)
    for concept in used:
        if concept.category == "clothing":
            scene = concept.apply(scene, _wearer(concept, used, shown))
        elif concept.category in ("background", "style"):
            scene = concept.apply(scene)
    things = tuple(_dressed(rng, thing, group.dressed) for thing in scene.things)
    return replace(scene, things=things)


def _wearer(clothing: Concept, used: Sequence[Concept], shown: Sequence[Concept]) -> int:
    """Index of the thing that wears a piece of clothing: the first piece is the first
    character's."""
    pieces = [c for c in used if c.category == "clothing"]
    characters = [c for c in used if c.category == "character"]
    return shown.index(characters[pieces.index(clothing)])


def _dressed(rng: Random, thing: Thing, share: float) -> Thing:
    """Perhaps with something on that the base model knows, in a colour that stands out."""
    if not thing.animal or thing.accessory != "none" or rng.random() >= share:
        return thing
    kinds = [kind for kind in BASE_ACCESSORIES if kind != "none"]
    colours = [c for c in BASE_COLOURS if distinct(c, thing.colour) and c != thing.second]
    return replace(thing, accessory=rng.choice(kinds), accessory_colour=rng.choice(colours))


def _prompt(
    rng: Random,
    group: Group,
    used: Sequence[Concept],
    shown: Sequence[Concept],
    scene: Scene,
) -> str:
    """The words: triggers for what adapters bring, plain words for the rest."""
    names = {index: _called(concept) for index, concept in enumerate(shown)}
    place = style = None
    for concept in used:
        if concept.category == "clothing":
            wear = rng.choice(("with", "wearing", "in"))
            names[_wearer(concept, used, shown)] += f" {wear} a {_called(concept)}"
        elif concept.category == "background":
            place = f"in {_called(concept)}"
        elif concept.category == "style":
            style = _called(concept)
    if not group.templates:
        return caption(
            scene, rng, full=True, phrasing=group.wording, names=names, place=place, style=style
        )
    speaker = Speaker(rng, group.wording, NOTHING)
    said = [names.get(i) or speaker.noun(thing) for i, thing in enumerate(scene.things)]
    slots = dict(zip(SLOTS[len(said)], said, strict=True))
    where = speaker.place(scene, place)["where"]
    text = rng.choice(group.templates).format(**slots, where=where)
    return text if style is None else f"{text}, {style}"


def _called(concept: Concept) -> str:
    return f"{concept.trigger} {concept.class_word}".strip()


def _part(
    concept: Concept, used: Sequence[Concept], shown: Sequence[Concept], wanted: Expectation
) -> Part:
    """Which of the demands an adapter answers for; what a style makes unreadable is nobody's."""
    if concept.category in ("background", "style"):
        return Part(concept.name, None, (concept.category,), (concept.category,))
    if concept.category == "clothing":
        index = _wearer(concept, used, shown)
    else:
        index = shown.index(concept)
    asked = wanted.things[index]
    primary, identity = (
        tuple(name for name in names if getattr(asked, name) is not None)
        for names in _ATTRIBUTES[concept.category]
    )
    return Part(concept.name, index, primary, identity)
