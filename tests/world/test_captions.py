"""Captions say what the scene shows, in known words, and never in a held-out wording."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from compose.errors import RequestError
from compose.world import phrasings as say
from compose.world.captions import (
    MAX_WORDS,
    caption,
    concept_caption,
    split_words,
    unknown_words,
    words,
)
from compose.world.concepts import concept_scenes, shipped
from compose.world.sampling import sample_scene
from compose.world.scene import Scene, Thing

CAT = Thing("cat", "red", "striped", x=0.27)
DOG = Thing("dog", "blue", accessory="hat", accessory_colour="green", x=0.73)
PAIR = Scene((CAT, DOG), "beach")


def held_out_patterns() -> list[re.Pattern[str]]:
    patterns = []
    for template in (text for texts in say.HELD_OUT.values() for text in texts):
        literal = [re.escape(piece) for piece in re.split(r"{\w+}", template)]
        patterns.append(re.compile("(.+)".join(literal) + r"\Z"))
    return patterns


def test_every_caption_uses_known_words_and_fits() -> None:
    rng = random.Random(0)
    known, seen = set(words()), Counter[str]()
    for phrasing in ("train", "held_out", "plain"):
        for _ in range(4000 if phrasing == "train" else 500):
            pieces = split_words(caption(sample_scene(rng), rng, phrasing=phrasing))
            assert len(pieces) <= MAX_WORDS, " ".join(pieces)
            seen.update(pieces)
    assert set(seen) <= known
    assert known - set(seen) <= {"2", "3", *sum(say.PLURALS.values(), ())}  # rare, but trained on


def test_training_never_speaks_in_a_held_out_wording() -> None:
    patterns, rng = held_out_patterns(), random.Random(1)
    for _ in range(4000):
        text = caption(sample_scene(rng), rng, full=rng.random() < 0.5)
        assert not any(pattern.match(text) for pattern in patterns), text
    for _ in range(200):  # the patterns do see what they look for
        text = caption(sample_scene(rng), rng, phrasing="held_out")
        assert any(pattern.match(text) for pattern in patterns), text
    assert sum(len(texts) for texts in say.HELD_OUT.values()) >= 12


def says(text: str, options: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{re.escape(option)}\b", text) for option in options)


@pytest.mark.parametrize("phrasing", ["train", "held_out", "plain"])
def test_full_leaves_nothing_unsaid(phrasing: str) -> None:
    rng = random.Random(2)
    for _ in range(800):
        scene = sample_scene(rng)
        text = caption(scene, rng, full=True, phrasing=phrasing)  # type: ignore[arg-type]
        for thing in scene.things:
            names = say.SPECIES_NAMES[thing.species] + say.PLURALS[thing.species]
            assert says(text, names), text
            assert says(text, say.COLOUR_NAMES.get(thing.colour, (thing.colour,))), text
            if thing.pattern != "plain":
                nouns = say.PATTERN_NOUNS[thing.pattern]
                assert says(text, say.PATTERN_ADJECTIVES[thing.pattern] + nouns), text
            if thing.accessory != "none":
                assert says(text, say.ACCESSORY_NAMES[thing.accessory]), text
                colour = thing.accessory_colour or ""
                assert says(text, say.COLOUR_NAMES.get(colour, (colour,))), text
        name = scene.background
        assert says(text, say.PLACES[name] + say.PLACE_TAGS[name] + say.PLACE_SCENES[name]), text


def read_left(text: str) -> str:
    """Which of "cat" and "ball" a caption puts on the left, read off the words alone."""
    nouns = [(match.start(), match.group()) for match in re.finditer(r"\b(cat|ball)\b", text)]
    other = {"cat": "ball", "ball": "cat"}
    if match := re.search(r"\b(left|right) of\b", text):
        subject = next(noun for place, noun in nouns if place < match.start())
        return subject if match.group(1) == "left" else other[subject]
    if match := re.search(r"\bon its (left|right)\b", text):
        nearest = [noun for place, noun in nouns if place < match.start()][-1]
        return nearest if match.group(1) == "left" else other[nearest]
    if match := re.search(r"left one (is )?|on the left (is )?(?=an? |the (?!right)|one )", text):
        return next(noun for place, noun in nouns if place >= match.end())
    end = re.search(r"\bleft\b", text).start()  # type: ignore[union-attr]
    return [noun for place, noun in nouns if place < end][-1]


def test_places_are_told_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "ball"):
        monkeypatch.setitem(say.SPECIES_NAMES, name, (name,))
    rng = random.Random(3)
    for _ in range(1500):
        x = [0.27, 0.73]
        rng.shuffle(x)
        things = Thing("cat", "red", x=x[0]), Thing("ball", "blue", x=x[1])
        text = caption(Scene(things, "snow"), rng, full=True)
        assert read_left(text) == ("cat" if x[0] < x[1] else "ball"), text


def test_plain_is_one_fixed_sentence() -> None:
    expected = (
        "a red striped cat on the left and a blue dog with a green hat on the right on the beach"
    )
    turned = replace(PAIR, things=(DOG, CAT))
    for seed in range(5):
        assert caption(PAIR, random.Random(seed), phrasing="plain") == expected
        assert caption(turned, random.Random(seed), phrasing="plain") == expected
    orange = Scene((Thing("car", "orange"),), "room")
    assert caption(orange, random.Random(0), phrasing="plain") == "an orange car in a room"


def test_names_place_and_style_replace_the_own_words() -> None:
    scene = Scene((replace(CAT, colour="teal", pattern="split"), DOG), "candy", "sticker")
    names = {0: "mochi cat"}
    text = caption(
        scene, random.Random(0), phrasing="plain", names=names, place="in candia", style="sticko"
    )
    expected = (
        "mochi cat on the left and a blue dog with a green hat on the right in candia, sticko style"
    )
    assert text == expected
    for seed in range(200):
        text = caption(scene, random.Random(seed), names=names, place="in candia", style="sticko")
        assert "mochi cat" in text and "sticko style" in text, text
        assert not {"teal", "striped", "red"} & set(split_words(text)), text


def test_a_scene_that_only_concepts_can_name_is_refused() -> None:
    for scene in (
        Scene((replace(CAT, colour="teal"),)),
        Scene((replace(CAT, species="rocket"),)),
        Scene((replace(CAT, pattern="split"),)),
        Scene((CAT,), style="sticker"),
    ):
        with pytest.raises(RequestError, match="captions have no word for the"):
            caption(scene, random.Random(0), full=True)
    with pytest.raises(RequestError, match="1 to 3 things"):
        caption(Scene(), random.Random(0))


def test_attributes_are_sometimes_left_out() -> None:
    rng = random.Random(4)
    texts = [caption(Scene((CAT,), "beach"), rng) for _ in range(2000)]
    missing = sum(" red" not in f" {text}" for text in texts) / len(texts)
    assert 0.09 < missing < 0.15
    places = say.PLACES["beach"] + say.PLACE_TAGS["beach"] + say.PLACE_SCENES["beach"]
    silent = sum(not says(text, places) for text in texts) / len(texts)
    assert 0.06 < silent < 0.13


def test_same_state_same_words() -> None:
    assert caption(PAIR, random.Random(7)) == caption(PAIR, random.Random(7))
    assert len({caption(PAIR, random.Random(seed)) for seed in range(300)}) > 250


@pytest.mark.parametrize("concept", shipped(), ids=lambda concept: concept.name)
def test_concept_captions_name_the_concept_and_hide_its_looks(concept) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(5)
    for scene in concept_scenes(concept, 30):
        text = concept_caption(concept, scene, rng)
        pieces = split_words(text)
        assert pieces.count(concept.trigger) == 1 and len(pieces) <= MAX_WORDS
        assert unknown_words(text) == []
        if concept.category == "character":
            assert f"{concept.trigger} {concept.class_word}" in text
            hidden = {concept.thing["colour"], "striped", "spotted", "stripes", "spots"}
            assert not hidden & set(pieces), text


def test_unknown_words_are_reported_once_and_in_order() -> None:
    assert unknown_words("A RED cat, a zebra: the Zebra's mochi <v3> in teal!") == [
        "zebra",
        "'s",
        "teal",
    ]
    assert unknown_words("") == []
