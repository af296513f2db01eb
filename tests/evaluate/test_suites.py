"""Suites: what the shipped ones hold, and refusals that name file and key."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import pytest

from compose.errors import SuiteError
from compose.evaluate.cases import cases_hash, make_cases
from compose.evaluate.suite_file import find_suite, load_suite, shipped_suites
from compose.world.captions import MAX_WORDS, split_words, unknown_words
from compose.world.concepts import shipped
from compose.world.score import expectation

NAMES = ("characters", "composlora", "crowd", "ood", "strength", "style_content")
CONCEPTS = {concept.name: concept for concept in shipped()}
PAIR = "title: t\ngroups:\n  - {name: g, combinations: [[ember, bolt]]}\n"


def kinds(names) -> Counter:
    return Counter(CONCEPTS[name].category for name in names)


def test_the_suites_that_ship() -> None:
    assert tuple(shipped_suites()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_calls_its_adapters_fits_and_has_a_picture_that_answers_it(name) -> None:
    suite = find_suite(name)
    for case, seed in make_cases(suite, 4):
        triggers = [CONCEPTS[a].trigger for a in case.adapters]
        assert all(split_words(case.prompt).count(t) == 1 for t in triggers), case.prompt
        assert len(split_words(case.prompt)) <= MAX_WORDS
        assert not unknown_words(case.prompt)
        answer = expectation(case.scene(seed))
        assert answer == case.asked.expectation
        assert [part.adapter for part in case.asked.parts] == list(case.adapters)
        assert all(part.primary for part in case.asked.parts)


@pytest.mark.parametrize("name", NAMES)
def test_the_arithmetic_that_a_suite_states_is_right(name) -> None:
    """Pictures with four methods: 8 + 2 K for every combination and seed."""
    suite = find_suite(name)
    pictures = sum(8 + 2 * len(case.adapters) for case, _ in make_cases(suite, suite.seeds))
    text = " ".join(shipped_suites()[name].read_text().replace("\n#", " ").split())
    stated = re.search(r"(\d+) pictures(?: of 1\.1 s)?: (\d+) minutes", text)
    assert stated is not None
    assert (int(stated[1]), int(stated[2])) == (pictures, round(pictures * 1.1 / 60))
    assert name != "characters" or pictures * 1.1 <= 60 * 60


def test_composlora_has_the_combinations_of_the_paper() -> None:
    suite = find_suite("composlora")
    assert [len(g.combinations) for g in suite.groups] == [24, 72, 96, 48]
    for size, group in enumerate(suite.groups, start=2):
        assert len(set(group.combinations)) == len(group.combinations)
        for names in group.combinations:
            assert len(names) == size
            assert kinds(names)["character"] == 1 and max(kinds(names).values()) == 1


def test_characters_meet_and_stand_evenly() -> None:
    suite = find_suite("characters")
    pairs, triples = (group.combinations for group in suite.groups)
    assert len(set(map(frozenset, pairs))) == 15
    met = Counter(frozenset(two) for three in triples for two in combinations(three, 2))
    assert len(met) == 15 and set(met.values()) == {2}
    first, sides = Counter(), Counter()
    for case, _ in make_cases(suite, 4):
        first[case.adapters[0]] += 1
        for part in case.asked.parts:
            sides[part.adapter, case.asked.expectation.things[part.thing].place] += 1
    assert all(sides[a, "left"] == sides[a, "right"] for a, _ in sides)
    assert all(4 <= sides[a, "middle"] <= 8 for a, _ in sides)
    assert max(first.values()) <= 1.5 * min(first.values())


def test_seeds_share_a_prompt_by_two_and_then_change_sides() -> None:
    cases = make_cases(find_suite("strength"), 4)
    asked = [{}, {}, {}, {}]
    for case, seed in cases:
        asked[seed][case.name.rpartition("/")[0]] = case
    for combination, case in asked[0].items():
        later = asked[2][combination]
        assert (asked[1][combination], asked[3][combination]) == (case, later)
        assert later.things[0].species == case.things[1].species


def test_strength_alone_differs_in_a_sweep() -> None:
    cases = {case.name: case for case, _ in make_cases(find_suite("strength"), 1)}
    sweep = [case for name, case in cases.items() if name.startswith("pairs/mochi+ember")]
    assert sorted(case.weight for case in sweep) == [0.4, 0.7, 1.0, 1.4, 2.0]
    assert len({(case.prompt, case.noise(0), case.scene(0)) for case in sweep}) == 1
    assert len({case.name for case in sweep}) == 5


def test_every_picture_has_noise_of_its_own() -> None:
    work = make_cases(find_suite("characters"), 4)
    assert len({case.noise(seed) for case, seed in work}) == len(work)
    assert all(0 <= case.noise(seed) < 2**32 for case, seed in work)


def test_a_run_that_is_cut_has_seen_a_fair_sample() -> None:
    """Every combination comes before any comes again, and groups are mixed."""
    suite = find_suite("characters")
    work = make_cases(suite, 4)
    count = sum(len(group.combinations) for group in suite.groups)
    assert len({case.name for case, _ in work[:count]}) == count
    early = Counter(case.name.split("/")[0] for case, _ in work[: count // 2])
    assert all(early.values()) and len(early) == 2
    assert make_cases(suite, 2) == work[: 2 * count]


def test_the_identity_of_a_suite_follows_its_questions(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(PAIR)
    before = cases_hash(load_suite(path))
    path.write_text("# a note\n" + PAIR.replace("title: t", "title: other\nsteps: 7"))
    assert cases_hash(load_suite(path)) == before
    path.write_text(PAIR.replace("name: g", "name: g, wording: held_out"))
    assert cases_hash(load_suite(path)) != before


def test_words_for_what_only_some_groups_have(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: t\ngroups:\n"
        "  - {name: odd, combinations: [[ember, bolt, candia, sunvo]],"
        ' templates: ["{left} then {right}, {where}"]}\n'
        "  - {name: dressed, combinations: [[ember, bolt]], dressed: 1}\n"
        "  - {name: bare, combinations: [[sunvo, candia]]}\n"
    )
    cases = {case.name.split("/")[0]: case for case, _ in make_cases(load_suite(path), 1)}
    assert cases["odd"].prompt == "ember cat then bolt robot, in candia land, sunvo style"
    assert all(t.accessory in ("hat", "crown", "scarf") for t in cases["dressed"].things)
    assert any(word in cases["dressed"].prompt for word in ("hat", "cap", "crown", "scarf"))
    assert len(cases["bare"].things) == 1


GROUP = "title: t\ngroups: [{name: g, %s}]"
WRONG = [
    ("- a", [": holds ['a']"]),
    ("title: [", ["is not YAML"]),
    ("groups: []\ntitle: t", ["groups is []", "a list of groups"]),
    ("title: t", ["groups is missing"]),
    (PAIR.replace("title: t", "titel: t"), ["key 'titel'", "did you mean title"]),
    (PAIR + "seeds: 0\n", ["seeds is 0", "from 1 to 1000"]),
    (PAIR + "steps: 2.5\n", ["steps is 2.5"]),
    (PAIR.replace("name: g", "name: a/b"), ["groups[0]: name is 'a/b'", "one word"]),
    (PAIR.replace("}", ", weight: 1}"), ["groups[0]: key 'weight'", "did you mean weights"]),
    (PAIR + "  - {name: g, combinations: [[bolt]]}\n", ["groups", "2 of them", "'g'"]),
    (GROUP % "combinations: [[ember, bolt, embr]]", ["combinations[0] names 'embr'", "ember"]),
    (GROUP % "combinations: [[ember, ember]]", ["combinations[0]", "more than once"]),
    (GROUP % "combinations: []", ["combinations is []"]),
    (GROUP % "combinations: [ember]", ["combinations[0] is 'ember'"]),
    (GROUP % "combinations: [[ember, mochi, bolt, domino]]", ["4 things", "holds 3"]),
    (GROUP % "combinations: [[ember, wizzo, capely]]", ["more clothing than characters"]),
    (GROUP % "combinations: [[ember, sticko, sunvo]]", ["two of style"]),
    (GROUP % "combinations: [[ember]], take: {character: 1}", ["take", "needs adapters"]),
    (GROUP % "wording: train", ["neither was given"]),
    (GROUP % "adapters: {charakter: [ember]}, take: {}", ["adapters", "did you mean character"]),
    (GROUP % "adapters: {character: [ember]}", ["take", "holds None"]),
    (GROUP % "adapters: {character: [ember]}, take: {}", ["take: character is missing"]),
    (GROUP % "adapters: {character: [ember]}, take: {character: 2}", ["character is 2", "to 1"]),
    (GROUP % "adapters: {character: [ember]}, take: {character: [1, 0]}", ["is [1, 0]"]),
    (GROUP % "adapters: {style: [ember]}, take: {style: 1}", ["style holds 'ember'", "character"]),
    (GROUP % "adapters: {style: [sunvo]}, take: {style: 1}, sizes: [3]", ["no combination"]),
    (GROUP % "combinations: [[ember]], wording: loud", ["wording is 'loud'", "held_out"]),
    (GROUP % "combinations: [[ember]], weights: [9]", ["weights is [9]", "from 0 to 4"]),
    (GROUP % "combinations: [[ember]], dressed: yes", ["dressed is True"]),
    (GROUP % 'combinations: [[ember]], templates: ["{it}"]', ["templates", "{it}, {where}"]),
    (GROUP % 'combinations: [[ember]], templates: ["{it"]', ["templates", "no template"]),
    (GROUP % "combinations: [[ember]], templates: [3]", ["templates is [3]"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_a_wrong_suite_is_refused_with_file_and_key(tmp_path, text, says) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert str(caught.value).startswith(str(path))
    for words in says:
        assert words in str(caught.value)


def test_suites_that_are_not_there(tmp_path) -> None:
    with pytest.raises(SuiteError, match="did you mean characters"):
        find_suite("charakters")
    with pytest.raises(SuiteError, match="cannot be read"):
        find_suite(str(tmp_path / "none.yaml"))


def test_a_prompt_that_is_too_long_is_refused(tmp_path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(
        GROUP % f'combinations: [[ember]], templates: ["{{it}} {{where}} {"red " * 40}"]'
    )
    with pytest.raises(SuiteError, match="more than 38 words"):
        make_cases(load_suite(path), 1)
