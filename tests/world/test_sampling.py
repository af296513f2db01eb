"""Random scenes: right words, right shares, nothing hidden."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from compose.errors import RequestError
from compose.world import vocabulary as words_of
from compose.world.renderer import object_masks, render
from compose.world.sampling import distinct, sample_scene
from compose.world.scene import Scene


def draw(number: int, **options: object) -> list[Scene]:
    rng = random.Random(3)
    return [sample_scene(rng, **options) for _ in range(number)]  # type: ignore[arg-type]


def test_the_same_state_gives_the_same_scene() -> None:
    assert sample_scene(random.Random("a")) == sample_scene(random.Random("a"))
    assert sample_scene(random.Random("a")) != sample_scene(random.Random("b"))


def test_shares_of_counts_accessories_and_patterns() -> None:
    drawn = draw(3000)
    counts = Counter(len(scene.things) for scene in drawn)
    for number, share in ((1, 0.35), (2, 0.53), (3, 0.12)):
        assert counts[number] / 3000 == pytest.approx(share, abs=0.04)
    animals = [thing for scene in drawn for thing in scene.things if thing.animal]
    dressed = sum(thing.accessory != "none" for thing in animals) / len(animals)
    assert dressed == pytest.approx(0.35, abs=0.04)


def test_other_shares_can_be_asked_for() -> None:
    drawn = draw(3000, shares=(0.2, 0.5, 0.3), dressed=0.6)
    counts = Counter(len(scene.things) for scene in drawn)
    assert [counts[n] / 3000 for n in (1, 2, 3)] == pytest.approx([0.2, 0.5, 0.3], abs=0.04)
    animals = [thing for scene in drawn for thing in scene.things if thing.animal]
    worn = Counter(thing.accessory_colour for thing in animals if thing.accessory_colour)
    assert worn.total() / len(animals) == pytest.approx(0.6, abs=0.04)
    assert set(worn) == set(words_of.BASE_COLOURS)
    assert min(worn.values()) > 0.7 * max(worn.values())  # brown and black shun each other


def test_base_scenes_hold_base_words_only_and_all_of_them() -> None:
    drawn = draw(1500)
    things = [thing for scene in drawn for thing in scene.things]
    assert {thing.species for thing in things} == set(words_of.BASE_SPECIES)
    assert {thing.colour for thing in things} == set(words_of.BASE_COLOURS)
    assert {thing.pattern for thing in things} == set(words_of.BASE_PATTERNS)
    assert {thing.accessory for thing in things} == set(words_of.BASE_ACCESSORIES)
    assert {scene.background for scene in drawn} == set(words_of.BASE_BACKGROUNDS)
    assert {scene.style for scene in drawn} == {"plain"}
    assert all(thing.second is None for thing in things)


def test_all_words_occur_when_asked_for() -> None:
    drawn = draw(2500, words="all")
    things = [thing for scene in drawn for thing in scene.things]
    assert {thing.species for thing in things} == set(words_of.SPECIES)
    assert {thing.colour for thing in things} == set(words_of.COLOURS)
    assert {thing.pattern for thing in things} == set(words_of.PATTERNS)
    assert {thing.accessory for thing in things} == set(words_of.ACCESSORIES)
    assert {scene.background for scene in drawn} == set(words_of.BACKGROUNDS)
    plain = sum(scene.style == "plain" for scene in drawn) / len(drawn)
    assert plain == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("words", ["base", "all"])
def test_colours_on_one_body_are_distinct(words: str) -> None:
    for scene in draw(300, words=words):
        for thing in scene.things:
            assert thing.second is None or distinct(thing.colour, thing.second)
            assert (thing.accessory == "none") == (thing.accessory_colour is None)
            assert thing.accessory_colour is None or distinct(thing.colour, thing.accessory_colour)
            assert thing.accessory == "none" or thing.animal


def test_things_stand_from_left_to_right_with_room_between() -> None:
    for scene in draw(300, words="all"):
        places = [thing.x for thing in scene.things]
        assert places == sorted(places)
        assert all(right - left > 0.22 for left, right in pairwise(places))


def test_lone_things_stand_off_centre_and_at_the_size_of_pairs_too() -> None:
    things = [scene.things[0] for scene in draw(400, count=1)]
    assert min(thing.x for thing in things) < 0.32
    assert max(thing.x for thing in things) > 0.68
    assert sum(thing.size < 0.58 for thing in things) > 100
    assert sum(thing.size > 0.65 for thing in things) > 60


def test_twins_occur() -> None:
    pairs = [scene.things for scene in draw(800, count=2)]
    assert sum(a.species == b.species for a, b in pairs) > 40
    assert sum(a.colour == b.colour for a, b in pairs) > 40


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("words", ["base", "all"])
def test_every_thing_is_seen_whole(count: int, words: str) -> None:
    """At most a tenth of a thing is hidden by others, and none of it is cut off at the top."""
    drawn = draw(24, count=count, words=words)
    together = object_masks(drawn)
    single = [replace(scene, things=(t,)) for scene in drawn for t in scene.things]
    own = object_masks(single)[:, 0]
    seen = together[:, :count].flatten(0, 1)
    assert float((seen.sum((1, 2)) / own.sum((1, 2))).min()) > 0.88
    assert not own[:, 0].any()
    assert not own[:, -1].any()
    sides = own[:, :, 0].sum(1) + own[:, :, -1].sum(1)
    assert int(sides.max()) <= 20


def test_patterns_and_accessories_stay_visible_in_company() -> None:
    """Taking away a pattern or an accessory changes the picture where the thing is."""
    for scene in draw(30, count=2, words="all"):
        scene = replace(scene, style="plain")
        picture = render([scene])
        for index, thing in enumerate(scene.things):
            for change in ({"pattern": "plain"}, {"accessory": "none"}):
                bare = replace(thing, **change)  # type: ignore[arg-type]
                if bare == thing:
                    continue
                things = tuple(bare if i == index else t for i, t in enumerate(scene.things))
                difference = (picture - render([replace(scene, things=things)])).abs().amax(1)
                assert int((difference > 0.15).sum()) > 70


def test_centred_scenes_have_no_jitter() -> None:
    for scene in draw(40, count=2, centred=True):
        assert [round(t.y + t.size / 2, 6) for t in scene.things] == [0.9, 0.9]
    assert {scene.things[0].x for scene in draw(40, count=1, centred=True)} == {0.5}


def test_a_crowd_is_refused() -> None:
    with pytest.raises(RequestError, match="4 things"):
        sample_scene(random.Random(0), count=4)
