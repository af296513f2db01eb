"""Concept files: the shipped ones are well separated, broken ones are refused with advice."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from compose.errors import ConceptError
from compose.world import vocabulary as words_of
from compose.world.concepts import Concept, concept_scenes, load_concept, shipped
from compose.world.renderer import object_masks, render
from compose.world.sampling import sample_scene
from compose.world.scene import Scene, Thing

NAMES = words_of.CONCEPT_TRIGGERS
GOOD = """
name: mochi
trigger: mochi
category: character
class_word: cat
thing: {species: cat, colour: teal, pattern: split, second: white}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def by_name(name: str) -> Concept:
    return next(concept for concept in shipped() if concept.name == name)


def test_fifteen_concepts_are_shipped_each_called_by_its_name() -> None:
    found = shipped()
    assert tuple(concept.trigger for concept in found) == NAMES
    assert all(concept.name == concept.trigger and concept.description for concept in found)


def test_every_shipped_concept_shows_something_the_base_model_never_saw() -> None:
    for concept in shipped():
        scene = concept_scenes(concept, 1)[0]
        thing = scene.things[0]
        assert (
            thing.colour not in words_of.BASE_COLOURS
            or thing.pattern not in words_of.BASE_PATTERNS
            or thing.accessory not in words_of.BASE_ACCESSORIES
            or thing.species not in words_of.BASE_SPECIES
            or scene.background not in words_of.BASE_BACKGROUNDS
            or scene.style != "plain"
        )


@pytest.mark.parametrize("concept", shipped(), ids=lambda concept: concept.name)
def test_training_pictures_vary_around_one_subject(concept: Concept) -> None:
    scenes = concept_scenes(concept, 24, 5)
    assert scenes == concept_scenes(concept, 24, 5)
    assert scenes != concept_scenes(concept, 24, 6)
    assert len({scene.detail for scene in scenes}) == 24
    if concept.thing is not None or concept.accessory is not None:
        assert all(len(scene.things) == 1 for scene in scenes)
        assert {scene.background for scene in scenes} == set(words_of.BASE_BACKGROUNDS)
        things = [scene.things[0] for scene in scenes]
        assert max(t.x for t in things) - min(t.x for t in things) > 0.25
        assert min(t.size for t in things) < 0.56
        assert max(t.size for t in things) > 0.58
        assert len({(t.colour, t.pattern, t.second, t.accessory_colour) for t in things}) == (
            1 if concept.thing else len({t.colour for t in things})
        )


@pytest.mark.parametrize("name", ["mochi", "rocko", "wizzo"])
def test_company_is_of_the_bases_world_and_on_either_side(name: str) -> None:
    concept = by_name(name)
    looks = dict(concept.thing or {"accessory": "wizard", "accessory_colour": "purple"})
    scenes = concept_scenes(concept, 60, 5, company=0.5)
    sides, alike = [], []
    for scene in scenes:
        own = [all(getattr(t, key) == word for key, word in looks.items()) for t in scene.things]
        assert sum(own) == 1 and len(scene.things) <= 2
        if len(scene.things) == 2:
            other = scene.things[own.index(False)]
            assert other.colour in words_of.BASE_COLOURS
            assert other.pattern in words_of.BASE_PATTERNS
            assert other.accessory in words_of.BASE_ACCESSORIES
            left, right = scene.things
            assert left.x < right.x
            sides.append(own.index(True))
            alike.append(left.species == right.species)
    assert 20 < len(sides) < 40 and 5 < sum(sides) < len(sides) - 5
    assert 5 < sum(alike) < len(alike) - 5
    assert concept_scenes(concept, 60, 5) == concept_scenes(concept, 60, 5, company=0.0)


def test_characters_look_different_from_each_other() -> None:
    scene = Scene((Thing("cat", "red", x=0.5, y=0.64, size=0.5),), background="room")
    drawn = [concept.apply(scene) for concept in shipped() if concept.category == "character"]
    pictures, masks = render(drawn), object_masks(drawn)[:, 0]
    for one, other in itertools.combinations(range(len(drawn)), 2):
        area = masks[one] & masks[other]
        difference = (pictures[one] - pictures[other]).abs()[:, area].mean()
        assert float(difference) > 0.15


def test_apply_changes_only_what_the_concept_is_about() -> None:
    scene = sample_scene(random.Random(2), count=2)
    assert by_name("lunara").apply(scene).things == scene.things
    assert by_name("lunara").apply(scene).background == "moon"
    assert by_name("sticko").apply(scene).style == "sticker"
    dressed = by_name("capely").apply(scene, 1)
    assert dressed.things[0] == scene.things[0]
    assert dressed.things[1].accessory == "cape"
    assert dressed.things[1].colour == scene.things[1].colour
    mochi = by_name("mochi").apply(scene, 0).things[0]
    assert (mochi.species, mochi.colour, mochi.pattern) == ("cat", "teal", "split")
    assert (mochi.x, mochi.y, mochi.pose) == tuple(
        getattr(scene.things[0], key) for key in ("x", "y", "pose")
    )
    with pytest.raises(ConceptError, match="thing 2"):
        by_name("mochi").apply(scene, 2)


def test_a_concept_may_have_a_colour_of_its_own(tmp_path: Path) -> None:
    concept = load_concept(write(tmp_path, GOOD.replace("teal", "'#10a080'")))
    picture = render(concept_scenes(concept, 2))
    assert torch.isfinite(picture).all()
    assert concept.thing is not None
    assert concept.thing["colour"] == "#10a080"


def test_the_trainers_part_and_defaults_are_left_alone(tmp_path: Path) -> None:
    concept = load_concept(write(tmp_path, GOOD + "train: {rank: 8}\nseed: 3\ncount: 12\n"))
    assert (concept.seed, concept.count, len(concept_scenes(concept))) == (3, 12, 12)
    assert load_concept(write(tmp_path, GOOD)).count == 48


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    text = "name: rex\ntrigger: <v1>\ncategory: character\nclass_word: dog\nimages: photos\n"
    concept = load_concept(write(tmp_path, text))
    assert concept.images == (tmp_path / "photos").resolve()
    with pytest.raises(ConceptError, match="not drawable"):
        concept_scenes(concept, 1)
    for folder in ("..", "/", "../elsewhere"):
        with pytest.raises(ConceptError, match="inside"):
            load_concept(write(tmp_path, text.replace("photos", folder)))
    with pytest.raises(ConceptError, match="no folder"):
        load_concept(write(tmp_path, text.replace("photos", "nowhere")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("species: cat", "species: cta"), "thing: species is 'cta'; did you mean cat"),
        (("teal", "teel"), "colour is 'teel'; did you mean teal"),
        (("teal", "'#12'"), "colour is '#12'"),
        (("split", "splitt"), "pattern is 'splitt'; did you mean split"),
        (("pattern: split, ", ""), "pattern is plain"),
        (("second: white", "second: '#10a8a4'"), "too close"),
        (("species: cat", "species: rocket"), "species is 'rocket'"),
        (("trigger: mochi", "trigger: moochi"), "trigger is 'moochi'; did you mean mochi"),
        (("trigger: mochi", "# none"), "trigger is missing"),
        (("character", "charakter"), "category is 'charakter'; did you mean character"),
        (("class_word", "classword"), "'classword' is unknown; did you mean class_word"),
        (("second: white", "second: white, hat: red"), "'hat' is unknown"),
        (("second: white", "second: white, accessory: hat"), "accessory_colour together"),
        (("thing: {", "style: sticker\nthing: {"), "thing and style was given"),
        (("thing: {", "# {"), "no subject was given"),
        (("class_word: cat", "class_word: [cat]"), "class_word is .*expected text"),
        (("class_word: cat", "class_word: cat\ncount: 0"), "count is 0; expected a whole number"),
        (("class_word: cat", "class_word: cat\nseed: yes"), "seed is True"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConceptError, match=message) as caught:
        load_concept(write(tmp_path, GOOD.replace(change[0], change[1], 1)))
    assert "mine.yaml" in str(caught.value)


def test_files_that_are_no_concepts(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="cannot be read"):
        load_concept(tmp_path / "absent.yaml")
    with pytest.raises(ConceptError, match="not YAML"):
        load_concept(write(tmp_path, "a: [1"))
    with pytest.raises(ConceptError, match="holds list"):
        load_concept(write(tmp_path, "- 1"))


def test_every_category_reads_its_own_subject(tmp_path: Path) -> None:
    head = "name: x\ntrigger: pippin\nclass_word: toy\ncategory: "
    wear = load_concept(write(tmp_path, head + "clothing\naccessory: {kind: hat, colour: lime}\n"))
    assert wear.accessory == {"kind": "hat", "colour": "lime"}
    assert all(s.things[0].accessory_colour == "lime" for s in concept_scenes(wear, 5))
    toy = load_concept(write(tmp_path, head + "object\nthing: {species: mug, colour: navy}\n"))
    assert {s.things[0].species for s in concept_scenes(toy, 5)} == {"mug"}
    with pytest.raises(ConceptError, match="mug wears nothing"):
        load_concept(
            write(
                tmp_path,
                head + "object\nthing: {species: mug, colour: navy, accessory: hat, "
                "accessory_colour: red}\n",
            )
        )
    with pytest.raises(ConceptError, match="accessory: colour is missing"):
        load_concept(write(tmp_path, head + "clothing\naccessory: {kind: hat}\n"))
