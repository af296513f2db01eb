"""Matching and verdicts on hand-made readings."""

from __future__ import annotations

import dataclasses

import pytest

from compose.errors import RequestError
from compose.world.reading import Reading, Seen
from compose.world.scene import Scene, Thing
from compose.world.score import Expectation, Expected, expectation, match, score

CAT = Thing("cat", "red", "striped", x=0.25)
DOG = Thing("dog", "blue", "plain", accessory="hat", accessory_colour="green", x=0.75)
BEAR = Thing("bear", "white", "spotted", x=0.5)
PAIR = Scene((CAT, DOG), "beach")
THREE = Scene((CAT, BEAR, DOG), "snow")


def seen(thing: Thing, **changes: object) -> Seen:
    """A thing read without any error, but for the changes."""
    one = Seen(
        thing.species,
        thing.colour,
        thing.pattern,
        thing.second,
        thing.accessory,
        thing.accessory_colour,
        thing.x,
        thing.y,
        thing.size,
    )
    return dataclasses.replace(one, **changes)


def reading(*things: Seen, background: str = "beach", style: str = "plain") -> Reading:
    return Reading(tuple(things), background, style)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_perfect_reading_in_any_order_is_all_right(order):
    things = [seen(thing) for thing in THREE.things]
    verdict = score(reading(*(things[i] for i in order), background="snow"), THREE)
    assert verdict.all_right
    assert [one.seen for one in verdict.things] == things
    assert all(all(one.right.values()) and one.place and not one.bleed for one in verdict.things)


def test_swapped_places_are_matched_by_looks_and_out_of_place():
    verdict = score(reading(seen(CAT, x=0.75), seen(DOG, x=0.25)), PAIR)
    assert [one.seen.species for one in verdict.things] == ["cat", "dog"]
    assert [one.place for one in verdict.things] == [False, False]
    assert all(all(one.right.values()) for one in verdict.things)
    assert not verdict.colour_species and not verdict.all_right


def test_swapped_places_are_fine_when_no_place_was_said():
    verdict = score(reading(seen(CAT, x=0.75), seen(DOG, x=0.25)), expectation(PAIR, placed=False))
    assert verdict.all_right


def test_places_need_order_only():
    verdict = score(reading(seen(CAT, x=0.55), seen(DOG, x=0.9)), PAIR)
    assert verdict.all_right


def test_the_middle_one_at_the_edge_is_out_of_place():
    things = (seen(CAT, x=0.4), seen(BEAR, x=0.1), seen(DOG))
    verdict = score(reading(*things, background="snow"), THREE)
    assert [one.place for one in verdict.things] == [False, False, True]


def test_swapped_colours_bleed_both_ways():
    verdict = score(reading(seen(CAT, colour="blue"), seen(DOG, colour="red")), PAIR)
    assert [one.right["colour"] for one in verdict.things] == [False, False]
    assert [one.bleed for one in verdict.things] == [True, True]
    assert [one.right["species"] for one in verdict.things] == [True, True]
    assert not verdict.colour_species


def test_a_colour_of_nobody_is_wrong_but_no_bleed():
    verdict = score(reading(seen(CAT, colour="green"), seen(DOG)), PAIR)
    assert not verdict.things[0].right["colour"] and not verdict.bleed


def test_a_pattern_bleeds_and_plain_does_not():
    stripes = score(reading(seen(CAT), seen(DOG, pattern="striped")), PAIR)
    assert [one.bleed for one in stripes.things] == [False, True]
    assert stripes.colour_species and not stripes.all_right
    plain = score(reading(seen(CAT, pattern="plain"), seen(DOG)), PAIR)
    assert not plain.bleed and not plain.things[0].identity


def test_a_vanished_thing_is_wrong_in_everything():
    verdict = score(reading(seen(DOG)), PAIR)
    cat, dog = verdict.things
    assert cat.vanished and not cat.place and not any(cat.right.values()) and not cat.identity
    assert dog.identity and verdict.vanished == 1 and verdict.extra == 0


def test_one_left_over_must_stand_on_its_side():
    assert not score(reading(seen(DOG, x=0.3)), PAIR).things[1].place


def test_a_double_is_extra():
    verdict = score(reading(seen(CAT, x=0.5), seen(CAT), seen(DOG)), PAIR)
    assert verdict.extra == 1 and verdict.colour_species and not verdict.all_right
    assert verdict.things[0].seen.x == 0.25  # the one at its place stands for it


def test_two_of_one_kind_are_told_apart_by_place():
    wanted = Scene((CAT, dataclasses.replace(CAT, x=0.75)), "beach")
    verdict = score(reading(seen(CAT), seen(CAT, x=0.8)), wanted)
    assert verdict.all_right and [one.seen.x for one in verdict.things] == [0.25, 0.8]


def test_background_and_style_count_in_all_right_only():
    verdict = score(reading(seen(CAT), seen(DOG), background="moon", style="sticker"), PAIR)
    assert not verdict.background and not verdict.style
    assert verdict.colour_species and not verdict.all_right


def test_open_attributes_are_not_judged():
    wanted = Expectation((Expected(species="cat"), Expected(colour="blue")))
    verdict = score(reading(seen(DOG), seen(CAT, colour="pink"), background="moon"), wanted)
    assert verdict.all_right
    assert [one.right for one in verdict.things] == [{"species": True}, {"colour": True}]


def test_a_single_thing_may_stand_anywhere():
    assert score(reading(seen(CAT, x=0.9)), Scene((CAT,), "beach")).all_right


def test_second_colour_is_judged_where_the_pattern_names_one():
    owl = Thing("bird", "teal", "split", "white")
    wanted = Scene((owl,), "beach")
    assert score(reading(seen(owl)), wanted).all_right
    assert not score(reading(seen(owl, second="navy")), wanted).things[0].identity
    assert score(reading(seen(owl, second="navy")), wanted).things[0].colour_species


def test_colours_are_left_open_where_everything_is_one_ink():
    wanted = dataclasses.replace(PAIR, style="blueprint")
    verdict = score(reading(seen(CAT, colour="navy"), seen(DOG), style="blueprint"), wanted)
    assert verdict.all_right and "colour" not in verdict.things[0].right


def test_colour_codes_are_left_open():
    assert Expected.of(dataclasses.replace(CAT, colour="#20a8a0")).colour is None


def test_match_with_nothing_seen_and_nothing_asked():
    assert match([], [Expected(species="cat")]) == [None]
    assert match([seen(CAT)], []) == []
    assert score(reading(), Scene((), "beach")).all_right
    assert score(reading(seen(CAT)), Scene((), "beach")).extra == 1


def test_four_things_cannot_be_asked():
    with pytest.raises(RequestError, match="4 things are asked for, at most 3"):
        Expectation((Expected(),) * 4)
