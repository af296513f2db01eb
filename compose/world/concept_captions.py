"""Words for the training pictures of a concept: its trigger for what is new, plain words for the
rest."""

from __future__ import annotations

import random
from dataclasses import replace

from compose.errors import RequestError
from compose.world.captions import caption
from compose.world.concepts import Concept
from compose.world.scene import Scene
from compose.world.speaker import NOTHING, Speaker


def _wearer(concept: Concept, scene: Scene) -> int:
    """Index of the thing that shows the concept: the one that agrees with it most."""
    wanted: dict[str, object] = dict(concept.thing or {})
    if concept.accessory is not None:
        wanted = {
            "accessory": concept.accessory["kind"],
            "accessory_colour": concept.accessory["colour"],
        }

    def agreement(index: int) -> int:
        thing = scene.things[index]
        return sum(getattr(thing, key) == value for key, value in wanted.items())

    return max(range(len(scene.things)), key=agreement, default=0)


def concept_caption(concept: Concept, scene: Scene, rng: random.Random) -> str:
    """Describe one training picture of a concept: its trigger for what is new, plain words for the
    rest.

    Args:
        concept: category "character", "clothing", "style", "background" or "object".
        scene: one of its pictures.
        rng: source of every draw.

    Returns:
        Such as "mochi cat on the beach", "a red dog wearing a wizzo hat in the snow", "a blue car
        in the room, sticko style", "a green bird in candia land", "a rocko toy at night".

    Raises:
        RequestError: an unknown category, or a scene that shows a second concept.
    """
    called = f"{concept.trigger} {concept.class_word}".strip()
    if concept.category == "style":
        return caption(scene, rng, full=True, style=called)
    if concept.category == "background":
        place = rng.choice((f"in {called}", f"in {concept.trigger}"))
        return caption(scene, rng, full=True, place=place)
    index = _wearer(concept, scene)
    shown = scene.things[index]
    # The concept's own looks stay unsaid: its name stands for them.
    bare = replace(
        scene, things=tuple(replace(t, accessory="none") if t is shown else t for t in scene.things)
    )
    if concept.category in ("character", "object"):
        short = concept.category == "object" and rng.random() < 0.3
        return caption(bare, rng, full=True, names={index: concept.trigger if short else called})
    if concept.category == "clothing":
        wear = rng.choice(("with", "wearing", "in")) + f" a {called}"
        name = Speaker(rng, "train", NOTHING).noun(shown, wear=wear)
        return caption(bare, rng, full=True, names={index: name})
    raise RequestError(
        f"concept {concept.name!r} has category {concept.category!r}; expected character, "
        f"clothing, style, background or object"
    )
