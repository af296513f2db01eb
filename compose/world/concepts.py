"""Concepts: what an adapter teaches the embedded model, each described by one small YAML file.

A file names the concept, the rare token that calls it, and exactly one subject: a `thing`
(character, object), an `accessory` (clothing), a `background`, a `style`, or `images`, a folder of
the user's own pictures. A part `train` is left to the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from compose.errors import ConceptError
from compose.world import concept_fields as fields
from compose.world import vocabulary as words_of
from compose.world.sampling import place, placed_things, sample_pose, sample_scene
from compose.world.scene import Scene, Thing

CATEGORIES = ("character", "clothing", "style", "background", "object")
SUBJECTS = {
    "character": "thing",
    "object": "thing",
    "clothing": "accessory",
    "background": "background",
    "style": "style",
}
DEFAULT_COUNT = 48
_KEYS = (
    "name", "trigger", "category", "class_word", "description", "thing", "accessory", "background",
    "style", "images", "seed", "count", "train",
)  # fmt: skip
_SHIPPED = Path(__file__).parent / "concepts"


@dataclass(frozen=True)
class Concept:
    """What one adapter teaches.

    Attributes:
        name: the adapter's name.
        trigger: the rare token that calls it in a prompt.
        category: a word of `CATEGORIES`.
        class_word: a known word that says what kind of thing it is; may be empty.
        description: one line for people.
        thing: species, colour, pattern, second, accessory, accessory_colour of a character or
            object.
        accessory: kind and colour of a piece of clothing.
        background: a word of `vocabulary.BACKGROUNDS`.
        style: a word of `vocabulary.STYLES`.
        images: folder of the user's own pictures, with captions beside them.
        seed: of the drawn pictures.
        count: how many pictures are drawn.
        source: the file it was read from.
    """

    name: str
    trigger: str
    category: str
    class_word: str = ""
    description: str = ""
    thing: Mapping[str, str] | None = None
    accessory: Mapping[str, str] | None = None
    background: str | None = None
    style: str | None = None
    images: Path | None = None
    seed: int = 0
    count: int = DEFAULT_COUNT
    source: Path | None = field(default=None, compare=False)

    def apply(self, scene: Scene, index: int = 0) -> Scene:
        """The scene with this concept in it.

        Args:
            scene: any scene.
            index: the thing that becomes the character or object, or that wears the clothing.

        Returns:
            The scene with the thing's looks, its clothing, the background or the style replaced.

        Raises:
            ConceptError: the concept is known by pictures only, or the scene has no such thing.
        """
        if self.images is not None:
            raise ConceptError(
                f"concept {self.name!r} is known by the pictures in {self.images}, not drawable"
            )
        if self.background is not None:
            return replace(scene, background=self.background)
        if self.style is not None:
            return replace(scene, style=self.style)
        if not 0 <= index < len(scene.things):
            raise ConceptError(
                f"thing {index} was asked for, the scene has {len(scene.things)}; count from 0"
            )
        changed = list(scene.things)
        changed[index] = replace(changed[index], **self._looks())
        return replace(scene, things=tuple(changed))

    def _looks(self) -> dict[str, Any]:
        if self.accessory is not None:
            return {
                "accessory": self.accessory["kind"],
                "accessory_colour": self.accessory["colour"],
            }
        plain: dict[str, Any] = {
            "pattern": "plain",
            "second": None,
            "accessory": "none",
            "accessory_colour": None,
        }
        return plain | dict(self.thing or {})


def load_concept(path: str | Path) -> Concept:
    """Read a concept file.

    Args:
        path: a YAML file.

    Returns:
        The concept, checked.

    Raises:
        ConceptError: the file cannot be read, or a key says something impossible; names file, key
            and the words that would do.
    """
    path = Path(path)
    given = fields.read_mapping(path)
    at = fields.Reader(given, str(path))
    at.no_other_keys(_KEYS)
    category = at.word("category", CATEGORIES)
    concept = Concept(
        name=at.text("name", path.stem),
        trigger=at.word("trigger", words_of.RARE_TOKENS),
        category=category,
        class_word=at.text("class_word", ""),
        description=at.text("description", ""),
        seed=at.number("seed", 0, 0, 2**31 - 1),
        count=at.number("count", DEFAULT_COUNT, 1, 4096),
        source=path,
    )
    subject = _subject(at, category)
    if subject == "images":
        return replace(concept, images=at.folder("images", path.parent))
    if subject == "background":
        return replace(concept, background=at.word("background", words_of.BACKGROUNDS))
    if subject == "style":
        return replace(concept, style=at.word("style", words_of.CONCEPT_STYLES))
    if subject == "accessory":
        return replace(concept, accessory=fields.read_accessory(at.part("accessory")))
    return replace(
        concept, thing=fields.read_thing(at.part("thing"), animal=category == "character")
    )


def shipped() -> tuple[Concept, ...]:
    """The concepts that come with the package, in the order of their triggers in the vocabulary."""
    found = [load_concept(path) for path in sorted(_SHIPPED.glob("*.yaml"))]
    return tuple(sorted(found, key=lambda concept: words_of.RARE_TOKENS.index(concept.trigger)))


def concept_scenes(
    concept: Concept, count: int | None = None, seed: int | None = None, company: float = 0.0
) -> list[Scene]:
    """The few pictures from which a concept is learned.

    Args:
        concept: what to show.
        count: how many; the concept's own number when None.
        seed: of the draws; the concept's own when None.
        company: share of the scenes of a character, object or clothing in which something that the
            base knows stands beside it, half of the time of the same species, in [0, 1].

    Returns:
        Scenes. A character or object without company stands alone, at any place and size, in all
        base backgrounds in turn; clothing is worn by base animals of base colours; a background or
        style shows base scenes.

    Raises:
        ConceptError: the concept is known by pictures only.
    """
    number = concept.count if count is None else count
    rng = Random(f"{concept.name}/{concept.seed if seed is None else seed}")
    scenes = []
    for index in range(number):
        if concept.background is not None or concept.style is not None:
            scenes.append(concept.apply(sample_scene(rng)))
            continue
        thing = Thing(rng.choice(words_of.ANIMALS), rng.choice(tuple(words_of.BASE_COLOURS)))
        shown = concept.apply(Scene((thing,), light=rng.random(), detail=rng.getrandbits(24)))
        if company and rng.random() < company:
            things = _beside(rng, shown.things[0])
        else:
            things = (sample_pose(rng, place(rng, shown.things[0], 0.46, 0.74)),)
        background = words_of.BASE_BACKGROUNDS[index % len(words_of.BASE_BACKGROUNDS)]
        scenes.append(replace(shown, things=things, background=background))
    return scenes


def _beside(rng: Random, own: Thing) -> tuple[Thing, ...]:
    """A thing with another one of the base's on its left or right."""
    other = sample_scene(rng, count=1).things[0]
    if rng.random() < 0.5:
        other = replace(other, species=own.species)
        if not own.animal:
            other = replace(other, accessory="none", accessory_colour=None)
    pair = (own, other) if rng.random() < 0.5 else (other, own)
    return tuple(placed_things(rng, pair))


def _subject(at: fields.Reader, category: str) -> str:
    """The one key that says what the concept shows."""
    wanted = SUBJECTS[category]
    named = [key for key in (*dict.fromkeys(SUBJECTS.values()), "images") if key in at.given]
    if named in ([wanted], ["images"]):
        return named[0]
    raise ConceptError(
        f"{at.where}: {' and '.join(named) or 'no subject'} was given; a concept of category "
        f"{category} takes either {wanted} or images, and nothing beside it"
    )
