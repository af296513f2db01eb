"""Batch files: what is wrong is told with its place, and what is right becomes the same pictures in
every order."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import RequestError, SpecError
from compose.request import OF_A_ROW, Request, check_together
from compose_workflows.plan import Item, plan_jobs
from compose_workflows.spec import read_batch
from compose_workflows.wildcards import fill, wildcards_in

EXAMPLES = Path(__file__).parents[2] / "workflows" / "examples"


def batch_of(folder: Path, text: str):
    path = folder / "spec.yaml"
    path.write_text(text)
    return read_batch(path)


ITEM = "items:\n  - name: a\n    prompt: mochi cat\n    adapters: [mochi]\n"
WRONG = [
    ("", 1, "", "empty"),
    ("items: [", 1, "", "not YAML"),
    ("items: []", 1, "items", "a list of items"),
    ("seed: -1\n" + ITEM, 1, "seed", "whole number"),
    ("seed: yes\n" + ITEM, 1, "seed", "whole number"),
    ("seeds: 1\n" + ITEM, 1, "seeds", "did you mean seed"),
    (ITEM + "    stepps: 3\n", 5, "items[0].stepps", "did you mean steps"),
    (ITEM + "    steps: 0\n", 5, "items[0].steps", "1 to 1000"),
    (ITEM + "    steps: 3\n    steps: 4\n", 6, "", "twice"),
    (ITEM + "    guidance: -1\n", 5, "items[0].guidance", "at least 0"),
    (ITEM + "    guidance: .nan\n", 5, "items[0].guidance", "a number"),
    (ITEM + "    size: 12\n", 5, "items[0].size", "WxH"),
    (ITEM + "    method: mrege\n", 5, "items[0].method", "did you mean merge"),
    (ITEM + "    set: {every: 2}\n", 5, "items[0].set.every", "a field of merge"),
    (ITEM + "    method: switch\n    set: {every: x}\n", 6, "items[0].set.every", "every"),
    (ITEM + "    negative: <lora:x>\n", 5, "items[0].negative", "prompt only"),
    (ITEM + "    grid: {stes: [1]}\n", 5, "items[0].grid.stes", "did you mean steps"),
    (ITEM + "    grid:\n      steps: 4\n", 6, "items[0].grid.steps", "a list of values"),
    (ITEM + "    grid:\n      steps: [4, 0]\n", 6, "items[0].grid.steps[1]", "1 to 1000"),
    (ITEM + "    grid: {weight.embr: [1]}\n", 5, "items[0].grid.weight.embr[0]", "mochi"),
    (ITEM + "    seeds: [1]\n    count: 2\n", 6, "items[0].count", "either seeds"),
    (ITEM + "    count: 20000\n", 5, "items[0].count", "1 to 10000"),
    (ITEM + "    count: 9000\n    matrix: [a, b]\n", 2, "items[0]", "at most 10000"),
    (
        ITEM + "    grid: {steps: [2]}\n    overrides:\n      - when: {steps: 3}\n",
        *(7, "items[0].overrides[0].when.steps", "a value of the axis"),
    ),
    ("items:\n  - prompt: x\n", 2, "items[0]", "name is missing"),
    ("items:\n  - name: a\n", 2, "items[0]", "prompt is missing"),
    ("items:\n  - name: a/b\n    prompt: x\n", 2, "items[0].name", "letters"),
    (ITEM + "  - name: a\n    prompt: x\n", 5, "items[1].name", "no other item"),
    ("items:\n  - name: a\n    prompt: __who__\n", 3, "items[0].prompt", "no wildcard"),
    ("items:\n  - name: a\n    prompt: (x:9)\n", 3, "items[0].prompt", "9"),
    ("items:\n  - name: a\n    prompt: '{one}'\n", 3, "items[0].prompt", "no choice"),
    (
        "items:\n  - name: a\n    prompt: x\n    adapters:\n      - mochi\n      - mochl\n",
        *(6, "items[0].adapters[1]", "did you mean mochi"),
    ),
    (
        "items:\n  - name: a\n    prompt: x\n    adapters:\n      - name: mochi\n"
        "        weigth: 1\n",
        *(6, "items[0].adapters[0].weigth", "did you mean weight"),
    ),
    (
        "items:\n  - name: a\n    prompt: x\n    adapters:\n      - name: mochi\n"
        "        region: [0, 0, 2, 1]\n",
        *(6, "items[0].adapters[0].region", "no box"),
    ),
    (
        "items:\n  - name: a\n    prompt: x\n    adapters: [{name: mochi, region: [0, 0, 1, 1]}]\n",
        *(4, "items[0].adapters", "places adapters"),
    ),
    ("wildcards:\n  who: nobody.txt\n" + ITEM, 2, "wildcards.who", "cannot be read"),
    ("load: {quantize: int3}\n" + ITEM, 1, "load", "int3"),
    ("defaults: &a [*a]\n" + ITEM, 1, "defaults[0]", "alias"),
]


@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG)
def test_errors_name_file_line_and_key(
    tmp_path: Path, text: str, line: int, key: str, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        batch_of(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'spec.yaml'}:{line}: {key}{': ' if key else ''}"), said
    assert words in said


GRID = """
seed: 5
defaults: {steps: 4, negative: fog}
wildcards: {where: [on the beach, in the forest, in the snow]}
items:
  - name: cats
    prompt: "{red|blue} cat __where__"
    adapters: [mochi, {name: ember, region: [0, 0, 0.5, 1]}]
    grid:
      method: [merge, regional]
      weight.mochi: [0.5, 1.0]
    matrix: [at night, in fog]
    set: {feather: 0.1}
    overrides:
      - when: {method: regional, weight.mochi: 0.5}
        steps: 6
    count: 3
  - name: dogs
    prompt: dog __where__
    grid: {__where__: [at home, on the beach]}
    count: 2
    negative: ""
"""


def test_a_grid_is_every_combination_and_compares_like_with_like(tmp_path: Path) -> None:
    items = [item for item in batch_of(tmp_path, GRID).items if item.entry == "cats"]
    places = [(*item.axes.values(), item.picture) for item in items]
    matrix = ["plain", "in fog", "at night", "at night + in fog"]
    assert places == [*product(["merge", "regional"], ["0.5", "1.0"], matrix, range(3))]
    for picture in range(3):
        same = [item for item in items if item.picture == picture]
        assert len({item.seed for item in same}) == 1
        assert len({item.request["prompt"].split(",")[0] for item in same}) == 1
    assert len({item.seed for item in items}) == 3
    for item in items:
        method, weight, parts, _ = (*item.axes.values(), item.picture)
        one = Request.from_json(item.request)
        assert one.method.name == method and one.negative == "fog"
        assert [use.weight for use in one.adapters] == [float(weight), 1.0]
        assert (one.adapters[1].region is not None) == (method == "regional")
        assert one.steps == (6 if (method, weight) == ("regional", "0.5") else 4)
        assert one.prompt.split(", ")[1:] == [p for p in parts.split(" + ") if p != "plain"]
        assert one.method.values().get("feather") == (0.1 if method == "regional" else None)


def test_a_wildcard_can_be_an_axis_and_defaults_can_be_taken_back(tmp_path: Path) -> None:
    dogs = [item for item in batch_of(tmp_path, GRID).items if item.entry == "dogs"]
    assert [item.request["prompt"] for item in dogs] == [
        *("dog at home",) * 2,
        *("dog on the beach",) * 2,
    ]
    assert {item.request["negative"] for item in dogs} == {""}


def test_pictures_do_not_depend_on_other_items_or_their_order(tmp_path: Path) -> None:
    data = yaml.safe_load(GRID)
    whole = {item.name: item for item in batch_of(tmp_path, yaml.safe_dump(data)).items}
    data["items"].reverse()
    data["items"].append({"name": "more", "prompt": "cat", "count": 2})
    others = {item.name: item for item in batch_of(tmp_path, yaml.safe_dump(data)).items}
    assert {name: others[name] for name in whole} == whole
    data["items"] = data["items"][:1]
    name = data["items"][0]["name"]
    alone = batch_of(tmp_path, yaml.safe_dump(data)).items
    assert list(alone) == [item for item in whole.values() if item.entry == name]


def test_another_seed_changes_seeds_and_choices(tmp_path: Path) -> None:
    text = "seed: {}\nitems: [{{name: a, prompt: '{{1|2|3|4}} {{1|2|3|4}}', count: 20}}]"
    one = batch_of(tmp_path, text.format(1)).items
    two = batch_of(tmp_path, text.format(2)).items
    assert {item.seed for item in one}.isdisjoint(item.seed for item in two)
    assert len({item.request["prompt"] for item in one}) > 5
    assert [i.request["prompt"] for i in one] != [i.request["prompt"] for i in two]


def test_written_seeds_are_taken_as_they_are(tmp_path: Path) -> None:
    def seeds(more: str) -> list[int]:
        return [item.seed for item in batch_of(tmp_path, ITEM + more).items]

    assert seeds("    seeds: [7, 3]\n") == [7, 3]
    assert seeds("    seed: 9\n    count: 3\n") == [9, 10, 11]
    assert seeds("    grid: {seed: [4, 2]}\n    count: 2\n") == [4, 5, 2, 3]


def test_aliases_and_merge_keys_are_yaml(tmp_path: Path) -> None:
    text = """
defaults: &usual {steps: 3, guidance: 2}
items:
  - &first {name: a, prompt: cat, <<: *usual}
  - {<<: *first, name: b, steps: 5}
"""
    one, two = batch_of(tmp_path, text).items
    assert (one.request["steps"], two.request["steps"]) == (3, 5)
    assert (two.request["prompt"], two.request["guidance"]) == ("cat", 2)


TEXTS = st.text("ab ", min_size=1, max_size=3)
VALUES = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.lists(TEXTS, min_size=1), min_size=3)


@given(VALUES, st.integers(0, 9), st.data())
def test_choices_are_among_the_values_and_always_the_same(values, about, data) -> None:
    names = data.draw(st.lists(st.sampled_from(["x", "y", "z"]), max_size=4))
    text = "-".join(f"__{name}__" for name in names)
    chosen = fill(text, values, "a", about)
    assert wildcards_in(text) == tuple(names)
    assert chosen == fill(text, values, "a", about)
    parts = chosen.split("-") if names else []
    assert len(parts) == len(names)
    assert all(part in values[name] for part, name in zip(parts, names, strict=True))


def test_wildcards_may_lead_to_others_but_not_back() -> None:
    values = {"who": ["__cat__", "{red|blue} __cat__"], "cat": ["mochi cat"]}
    found = {fill("a __who__", values, i) for i in range(40)}
    assert found == {"a mochi cat", "a red mochi cat", "a blue mochi cat"}
    with pytest.raises(RequestError, match="contain itself"):
        fill("__who__", {"who": ["a __who__"]}, 0)
    for other in ("{2$$a|b}", "{0.5::a|b}", "{a", "a}", "{a}"):
        with pytest.raises(RequestError, match=r"red\|blue"):
            fill(other, {}, 0)


def request(prompt: str, seed: int, steps: int) -> dict[str, object]:
    return Request(prompt, steps=steps, seeds=(seed,)).to_json()


ITEMS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 3), st.sampled_from("mn")),
    max_size=12,
)


@given(ITEMS, st.integers(1, 5))
def test_jobs_share_what_can_be_shared_and_hold_every_picture_once(found, together) -> None:
    items = [
        Item("a", number, {}, 0, model, request(prompt, seed, steps))
        for number, (prompt, seed, steps, model) in enumerate(found, start=1)
    ]
    jobs = plan_jobs(items, together)
    assert sorted(i.number for job in jobs for i in job.items) == [i.number for i in items]
    models = [job.model for job in jobs]
    assert models == sorted(models, key=models.index)  # one after another
    for job in jobs:
        assert 1 <= len(job.items) <= together and len({i.model for i in job.items}) == 1
        check_together([Request.from_json(item.request) for item in job.items])
    shapes = {(i.model, i.request["steps"]) for i in items}
    full = sum(
        -(-sum((i.model, i.request["steps"]) == s for i in items) // together) for s in shapes
    )
    assert len(jobs) == full
    assert len({file for job in jobs for file in job.files}) == len(items)


def test_what_rows_may_differ_in_is_the_same_for_plans_and_for_the_engine() -> None:
    from compose_workflows import plan

    assert plan.OF_A_ROW == OF_A_ROW


def test_file_names_say_everything_that_decides_a_picture() -> None:
    items = [Item("a", n, {}, 0, "m", request("x", n, 2)) for n in (1, 2)]
    alone, beside = plan_jobs(items, 1), plan_jobs(items, 2)
    assert alone[0].files[0] != beside[0].files[0]
    other = [Item("a", 1, {}, 0, "other", request("x", 1, 2))]
    assert plan_jobs(other, 1)[0].files[0] != alone[0].files[0]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("batch_*.yaml")), ids=lambda p: p.stem)
def test_examples_can_be_read(path: Path) -> None:
    assert read_batch(path).items
