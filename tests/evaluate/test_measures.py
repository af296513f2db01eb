"""Every measure on pictures with a known fault, and on shuffled labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from compose.evaluate import measures
from compose.evaluate.cases import make_cases
from compose.evaluate.measures import Sight, measure, retention
from compose.world.renderer import render
from compose.world.scene import Scene, Thing
from tests.evaluate.known import CLEAR, case, mean, measured, sights, suite

SEEDS = range(6)
PAIR = case("ember", "bolt")
FULL = case("ember", "bolt", "wizzo", "sticko", "candia")
Fault = Callable[[Scene], Scene]


def looks(thing: Thing, other: Thing, *names: str) -> Thing:
    return replace(thing, **{name: getattr(other, name) for name in names})


def each(scene: Scene, change: Callable[[Thing, Thing], Thing]) -> Scene:
    """Both things changed, each in view of the other."""
    one, two = scene.things
    return replace(scene, things=(change(one, two), change(two, one)))


def moved(thing: Thing, other: Thing) -> Thing:
    return thing.at(other.x, thing.y, thing.size)


def swapped(scene: Scene) -> Scene:
    return each(scene, moved)


def same(scene: Scene) -> Scene:
    return scene


def lonely(scene: Scene) -> Scene:
    return replace(scene, things=scene.things[:1])


def crowded(scene: Scene) -> Scene:
    """A third thing, and everybody smaller to make room."""
    places = (0.16, 0.5, 0.84)
    things = (scene.things[0], Thing("mug", "pink"), scene.things[1])
    return replace(
        scene, things=tuple(t.at(x, 0.75, 0.3) for t, x in zip(things, places, strict=True))
    )


def robes(scene: Scene) -> Scene:
    return each(scene, lambda t, o: looks(t, o, "colour", "pattern", "second"))


def patterns(scene: Scene) -> Scene:
    return each(scene, lambda t, o: replace(t, pattern="striped", second=None))


def twins(scene: Scene) -> Scene:
    """Ember stands for both, in both places."""
    return each(scene, lambda t, o: t if t.species == "cat" else moved(o, t))


def hats(scene: Scene) -> Scene:
    return each(scene, lambda t, o: looks(t, o, "accessory", "accessory_colour"))


def green_hats(scene: Scene) -> Scene:
    return each(
        scene, lambda t, o: t if t.accessory == "none" else replace(t, accessory_colour="green")
    )


def at_night(scene: Scene) -> Scene:
    return replace(scene, background="night" if scene.background != "night" else "snow")


def plain(scene: Scene) -> Scene:
    return replace(scene, style="plain")


PLANTED: list[tuple[object, Fault, dict[str, float | None]]] = [
    (PAIR, same, {"presence": 1, "place": 1, "primary": 1, "identity": 1, "all_primary": 1,
                  "all_identity": 1, "bleed": 0, "vanished": 0, "extra": 0, "background": 1,
                  "style": 1, "style_strength": None, "all_right": 1}),
    (PAIR, swapped, {"presence": 1, "place": 0, "primary": 0, "identity": 0, "all_primary": 0,
                     "bleed": 0, "vanished": 0, "all_right": 0}),
    (PAIR, robes, {"bleed": 1, "primary": 0, "vanished": 0}),
    (PAIR, twins, {"bleed": 1, "primary": 0.5, "all_primary": 0, "primary/ember": 1, "vanished": 0,
                   "extra": 0}),
    (PAIR, patterns, {"primary": 1, "all_primary": 1, "identity": 0, "all_identity": 0, "bleed": 0,
                      "all_right": 0}),
    (PAIR, lonely, {"presence": 0.5, "presence/ember": 1, "presence/bolt": 0, "vanished": 0.5,
                    "place/bolt": None, "place/ember": 1, "primary": 0.5, "all_primary": 0,
                    "extra": 0, "bleed": 0}),
    (PAIR, crowded, {"extra": 1, "vanished": 0, "all_right": 0}),
    (PAIR, at_night, {"background": 0, "primary": 1, "all_right": 0}),
    (FULL, same, {"presence": 1, "primary": 1, "identity": 1, "background": 1, "style": 1,
                  "style_strength": 1, "bleed": 0, "place/sticko": None, "place/candia": None,
                  "place/wizzo": 1, "all_right": 1}),
    (FULL, plain, {"style": 0, "style_strength": 0, "presence/sticko": 0, "primary/sticko": 0,
                   "identity/sticko": 0, "primary/ember": 1, "all_primary": 0}),
    (FULL, at_night, {"background": 0, "presence/candia": 0, "primary/candia": 0,
                      "primary/bolt": 1}),
    (FULL, hats, {"bleed": 1, "presence/wizzo": 0, "primary/wizzo": 0, "identity/wizzo": 0,
                  "place/wizzo": 1, "primary/ember": 1}),
    (FULL, green_hats, {"bleed": 0, "primary/wizzo": 1, "identity/wizzo": 0, "identity/ember": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "fault", "scores"),
    PLANTED,
    ids=[f"{len(c.adapters)} adapters, {f.__name__}" for c, f, _ in PLANTED],
)
def test_a_planted_fault_gets_the_score_it_must(asked, fault, scores) -> None:
    got = measured(asked.asked, [fault(asked.scene(seed)) for seed in SEEDS])
    for name, value in scores.items():
        if value is None:
            assert got[name] is None, name
        else:
            assert got[name] == pytest.approx(value, abs=0.1), name


def test_every_measure_has_a_planted_fault() -> None:
    planted = {name.split("/")[0] for _, _, scores in PLANTED for name in scores}
    tested_below = {"background_damage"}
    functions = (*measures.PART_MEASURES, *measures.MEASURES)
    assert {f.__name__ for f in functions} <= planted | tested_below


@pytest.mark.parametrize("asked", [PAIR, FULL], ids=["base", "styled"])
def test_background_damage_rises_with_what_is_spoilt(asked) -> None:
    scenes = [asked.scene(seed) for seed in SEEDS]
    clean = render(scenes)
    stained, tinted = clean.clone(), (clean * 0.7).clamp(0, 1)
    stained[:, :, 8:40, 8:120] = torch.tensor([0.8, 0.1, 0.6])[:, None, None]
    other = render([at_night(scene) for scene in scenes])

    def damage(pictures: torch.Tensor) -> float:
        seen = sights([asked.asked] * len(scenes), clean)  # the same things everywhere
        both = zip(seen, pictures, strict=True)
        found = [measures.background_damage(replace(sight, picture=p)) for sight, p in both]
        return sum(found) / len(found)

    assert damage(clean) < 0.015
    assert all(damage(p) > 5 * damage(clean) for p in (stained, tinted, other))


def test_background_damage_does_not_see_the_things() -> None:
    scenes = [PAIR.scene(seed) for seed in SEEDS]
    pictures = render([robes(scene) for scene in scenes])
    seen = sights([PAIR.asked] * len(scenes), pictures)
    assert max(measures.background_damage(sight) or 0.0 for sight in seen) < 0.015


def test_what_was_not_asked_is_not_judged() -> None:
    (sight,) = sights([PAIR.asked], render([PAIR.scene(0)]))
    nothing = replace(PAIR.asked.expectation, background=None, style=None, things=())
    got = measure(Sight(replace(PAIR.asked, expectation=nothing, parts=()), *_rest(sight)))
    for name in ("background", "background_damage", "style", "style_strength", "bleed", "vanished"):
        assert got[name] is None
    assert got["presence"] is None and got["all_primary"] == 1.0


def _rest(sight: Sight):
    return sight.reading, sight.picture


def test_shuffled_labels_give_chance() -> None:
    """Chance: how often the label of another picture happens to say the same of a side."""
    work = make_cases(suite(*combinations(CLEAR, 2)), 8)
    pictures = render([case.scene(seed) for case, seed in work])
    labels = [case.asked for case, _ in work]
    order = torch.randperm(len(work), generator=torch.Generator().manual_seed(5)).tolist()
    shuffled = [labels[i] for i in order]

    def side(asked, part) -> tuple[str, str]:
        return part.adapter, asked.expectation.things[part.thing].place

    by_luck = []
    for true, false in zip(labels, shuffled, strict=True):
        there = {side(true, part) for part in true.parts}
        by_luck.append(sum(side(false, part) in there for part in false.parts) / 2)
    chance = sum(by_luck) / len(by_luck)
    got = [m["primary"] for m in map(measure, sights(shuffled, pictures))]
    right = [m["primary"] for m in map(measure, sights(labels, pictures))]
    assert 0.1 < chance < 0.5  # four characters, two sides: one in four
    assert sum(got) / len(got) == pytest.approx(chance, abs=0.04)
    assert sum(right) / len(right) > 0.95


def test_retention_counts_only_what_shows_alone() -> None:
    alone = {"primary": 0.67, "primary/a": 1.0, "primary/b": 0.0, "primary/c": 1.0, "place/b": 1.0}
    here = {"primary/a": 1.0, "primary/b": 1.0, "primary/c": 0.0}
    assert retention(here, alone) == 0.5
    assert retention(here, {**alone, "primary/c": 0.0}) == 1.0
    assert retention(here, dict.fromkeys(alone, 0.0)) is None


def test_means_over_adapters() -> None:
    got = measured(PAIR.asked, [lonely(PAIR.scene(0))])
    for kind in ("presence", "primary", "identity"):
        assert got[kind] == (got[f"{kind}/ember"] + got[f"{kind}/bolt"]) / 2
    assert got["place"] == got["place/ember"]  # the other one says nothing
    assert mean([got, got]) == got
