"""What stands in report.json: means, differences, claims, and what is missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from compose.errors import RequestError
from compose.evaluate.records import NAME, append_records
from compose.evaluate.report import write_report
from compose.evaluate.report.figures import differences, means, retentions, transfers
from compose.evaluate.report.table import Part, load_table, make_table
from tests.evaluate.planted import PAIRS, ROWS, TRIPLES, record, records, write


def by_name(rows: list[dict]) -> dict[tuple, dict]:
    return {(r["method"], r["group"], r["adapters"], r["metric"]): r for r in rows}


def test_the_report_holds_what_the_command_promises(tmp_path) -> None:
    made = records(seeds=4)
    report = write_report(
        write(tmp_path, made), command=["/usr/bin/lora-compose", "evaluate", "x y"]
    )
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["suite"] == "characters" and report["seeds"] == 4
    assert report["report"] == str(tmp_path / "report.html")
    for row in report["rows"]:
        assert {"method", "adapters", "metric", "value", "low", "high", "n"} <= row.keys()
    assert report["commands"] == ["lora-compose evaluate 'x y'"]
    assert {"python", "torch", "diffusers"} <= report["versions"].keys()
    assert report["host"]["processors"] and report["headline"] == "all_primary"
    assert report["records"]["pictures"] == len(made) and len(report["records"]["sha256"]) == 64
    again = write_report(tmp_path, command=["lora-compose", "evaluate", "more"])
    assert again["commands"] == ["lora-compose evaluate 'x y'", "lora-compose evaluate more"]
    assert again["rows"] == report["rows"]


def test_means_are_those_of_the_pictures(tmp_path) -> None:
    made = records(groups={"pairs": PAIRS, "triples": TRIPLES})
    rows = by_name(write_report(write(tmp_path, made, pictures=False))["rows"])
    for row in ROWS:
        for metric in ("all_primary", "background_damage"):
            for count in (None, 2, 3):
                values = [
                    r.measures[metric]
                    for r in made
                    if r.row == row and count in (None, len(r.adapters))
                ]
                found = rows[row, None, count, metric]
                assert found["value"] == pytest.approx(np.mean(values))
                assert found["n"] == len(values)
                assert found["low"] <= found["value"] < found["high"]
    assert rows["merge", None, None, "all_primary"]["units"] == 20  # combinations, not pictures


def test_rows_come_in_order_and_merge_comes_first() -> None:
    table = make_table(records())
    assert [row.name for row in table.rows] == ["merge", "regional", "switch", "alone", "random"]
    assert table.measures[0] == "all_primary" and table.measures[-1] == "primary/mochi"
    assert table.shares == {"all_primary", "primary", "bleed", "primary/mochi"}


def test_parts_are_counts_and_groups_but_not_twice() -> None:
    both = {"pairs": PAIRS, "triples": TRIPLES}
    assert make_table(records(groups=both)).parts == (Part(), Part(None, 2), Part(None, 3))
    three = {"plain": PAIRS, "fresh": PAIRS, "triples": TRIPLES}
    assert make_table(records(groups=three)).parts == (
        Part(), Part(None, 2), Part(None, 3), Part("fresh", 2), Part("plain", 2),
        Part("triples", 3),
    )  # fmt: skip
    assert make_table(records()).parts == (Part(None, 2),)
    strong = records() + [replace(r, case=f"{r.case[:-2]}@0.7{r.case[-2:]}") for r in records()]
    assert make_table(strong).parts == (Part(None, 2), Part("pairs", 2), Part("pairs@0.7", 2))
    loose = [replace(r, case=r.case.replace("/", "-")) for r in records(groups=both)]
    assert make_table(loose).parts == (Part(), Part(None, 2), Part(None, 3))


@pytest.mark.parametrize(
    ("combos", "seeds", "kind", "units"),
    [(5, 4, "combination", 5), (4, 4, "case", 8), (1, 8, "picture", 8), (2, 1, "picture", 2)],
)
def test_units_are_the_coarsest_of_which_there_are_enough(combos, seeds, kind, units) -> None:
    made = records(groups={"pairs": PAIRS[:combos]}, seeds=seeds)
    if kind == "picture":
        made = [replace(r, case=r.case[:-1] + "0") for r in made]
    table = make_table(made)
    assert table.units == kind
    assert {len(set(row.units)) for row in table.rows} == {units}


def test_differences_are_paired_and_planted_ones_are_found(tmp_path) -> None:
    made = records()
    report = write_report(write(tmp_path, made, pictures=False))
    found = {(d["method"], d["against"], d["metric"]): d for d in report["differences"]}
    worth = {
        row: {(r.case, r.seed): r.measures["all_primary"] for r in made if r.row == row}
        for row in ROWS
    }
    for against in ("merge", "random"):
        for row in ROWS:
            if row == against:
                assert (row, against, "all_primary") not in found
                continue
            d = found[row, against, "all_primary"]
            pairs = [worth[row][key] - worth[against][key] for key in worth[row]]
            assert d["value"] == pytest.approx(np.mean(pairs)) and d["n"] == 40
    assert found["regional", "merge", "all_primary"]["low"] > 0
    assert found["regional", "merge", "bleed"]["high"] < 0
    assert not any("/" in metric for _, _, metric in found)


def test_differences_of_a_part_are_those_of_its_cases() -> None:
    made = records({"merge": 0.2, "switch": 0.5}, groups={"pairs": PAIRS, "triples": TRIPLES})
    for figure in differences(make_table(made)):
        values = [
            {(r.case, r.seed): r.measures[figure.metric] for r in made if r.row == row}
            for row in ("switch", "merge")
        ]
        count = figure.part.adapters
        keys = [key for key in values[0] if count in (None, key[0].count("+") + 1)]
        wanted = np.mean([values[0][key] - values[1][key] for key in keys])
        assert figure.interval.value == pytest.approx(wanted) and figure.interval.n == len(keys)


def test_transfer_is_claimed_where_something_was_learned() -> None:
    made = records({"regional": 0.5, "merge": 0.1, "random": 0.08})
    table = make_table(made)
    claims = transfers(table, list(differences(table)))
    assert {c["method"]: c["shown"] for c in claims} == {"regional": True, "merge": False}


def test_random_adapters_are_rarely_called_transfer() -> None:
    """The planted case of no transfer: 200 runs, at most 5 in 100 may claim it."""
    claims = 0
    for run in range(200):
        rng = np.random.default_rng(run)
        easy = rng.beta(1, 3, size=len(PAIRS))
        made = [
            record(
                row,
                f"pairs/{'+'.join(adapters)}/0",
                seed,
                {"all_primary": float(rng.random() < share)},
                adapters=adapters,
            )
            for row in ("learned", "random")
            for adapters, share in zip(PAIRS, easy, strict=True)
            for seed in range(4)
        ]
        table = make_table(made)
        (claim,) = transfers(table, list(differences(table)))
        claims += claim["shown"]
    assert claims <= 10


def test_without_random_adapters_nothing_is_claimed(tmp_path) -> None:
    report = write_report(write(tmp_path, records({"merge": 0.1, "regional": 0.9})))
    assert report["transfer"] == [] and "no method may claim transfer" in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


def test_a_row_that_failed_halfway_is_compared_on_what_it_has(tmp_path) -> None:
    made = records({"merge": 0.1, "late": 0.5})
    kept = [r for r in made if r.row == "merge" or (r.seed < 2 and "bolt" in r.adapters)]
    report = write_report(write(tmp_path, kept))
    rows, cost = by_name(report["rows"]), {c["method"]: c for c in report["cost"]}
    assert rows["late", None, 2, "all_primary"]["n"] == 8
    assert (cost["late"]["pictures"], cost["late"]["asked"]) == (8, 40)
    (d,) = [d for d in report["differences"] if d["metric"] == "all_primary"]
    worth = {(r.row, r.case, r.seed): r.measures["all_primary"] for r in kept}
    late = [key for key in worth if key[0] == "late"]
    pairs = [worth[key] - worth["merge", key[1], key[2]] for key in late]
    assert d["n"] == 8 and d["value"] == pytest.approx(np.mean(pairs))
    assert "8 of 40" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_rows_without_a_case_in_common_have_no_difference() -> None:
    made = [record("merge", "a", s, {"x": 1.0}) for s in range(3)]
    made += [record("other", "b", s, {"x": 0.0}) for s in range(3)]
    assert list(differences(make_table(made))) == []


def test_measures_that_say_nothing_are_left_out() -> None:
    made = [
        record("merge", "a", 0, {"x": None, "y": 1.0, "z": None}),
        record("merge", "a", 1, {"x": 0.5, "y": 1.0}),
        record("silent", "a", 0, {"x": None, "y": None}),
    ]
    table = make_table(made)
    assert table.measures == ("x", "y")
    found = {(f.method, f.metric): f.interval for f in means(table)}
    assert found["merge", "x"].n == 1 and found["merge", "x"].low is None
    assert {method for method, _ in found} == {"merge"}


def test_one_seed_and_one_picture_make_a_report(tmp_path) -> None:
    alone = write(tmp_path, [record("merge", "pairs/a+b/0", 0, {"all_primary": 1.0})])
    report = write_report(alone)
    (row,) = report["rows"]
    assert (row["value"], row["low"], row["high"], row["n"]) == (1.0, None, None, 1)
    assert report["seeds"] == 1 and report["resampled"] == "picture"


def test_a_torn_line_costs_one_picture(tmp_path) -> None:
    made = records({"merge": 0.5})
    write(tmp_path, made, pictures=False)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-30])
    assert write_report(tmp_path)["records"]["pictures"] == len(made) - 1
    append_records(tmp_path, made[-1:])
    assert write_report(tmp_path)["records"]["pictures"] == len(made)


def test_a_picture_that_was_made_again_counts_once() -> None:
    table = make_table([record("merge", "a", 0, {"x": v}) for v in (0.0, 1.0)])
    assert table.rows[0].columns["x"].tolist() == [1.0]


def test_retention_is_a_share_of_the_adapters_alone() -> None:
    made = []
    for i, adapters in enumerate(PAIRS):
        for seed in range(4):
            case = f"pairs/{'+'.join(adapters)}/0"
            for row, right in (("merge", seed == 0), ("alone", seed != i % 4)):
                made.append(
                    record(row, case, seed, {"all_primary": float(right)}, adapters=adapters)
                )
    table = make_table(made)
    (found,) = retentions(table)
    assert found.interval.value == pytest.approx((1 / 4) / (3 / 4))
    assert found.interval.low < 1 / 3 < found.interval.high < 0.8


def test_a_ceiling_of_single_adapters_needs_no_pairs() -> None:
    made = records({"merge": 0.5})
    made += [
        record("alone", f"single/{name}/0", seed, {"all_primary": float(seed > 0)}, adapters=[name])
        for name in ("ember", "mochi")
        for seed in range(4)
    ]
    table = make_table(made)
    (found,) = (f for f in retentions(table) if f.metric == "all_primary")
    merge = table.rows[0].columns["all_primary"].mean()
    assert found.interval.value == pytest.approx(merge / 0.75)
    assert {len(names) for names in table.combinations.values()} == {1, 2}


def test_costs_are_means_and_absent_ones_stay_absent(tmp_path) -> None:
    made = [record("merge", "a", s, {"x": 1.0}, cost={"rows": 40.0 + s}) for s in range(2)]
    made.append(record("rendered", "a", 0, {"x": 1.0}))
    report = write_report(write(tmp_path, made))
    cost = {c["method"]: c for c in report["cost"]}
    assert cost["merge"]["rows"] == 40.5 and cost["merge"]["seconds"] is None
    assert cost["rendered"]["rows"] is None


def test_the_headline_of_strange_records_is_their_first_measure(tmp_path) -> None:
    made = [
        record("merge", f"c{i}", 0, {"clip_least": 20.0 + i, "clip": 30.0}, adapters=[f"a{i}"])
        for i in range(8)
    ]
    report = write_report(write(tmp_path, made))
    assert report["headline"] == "clip"
    found = by_name(report["rows"])["merge", None, 1, "clip_least"]
    assert found["value"] == 23.5 and 20 < found["low"] < 23.5 < found["high"] < 27
    assert math.isfinite(found["high"])


def test_folders_that_are_none_are_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match=r"no pictures in .*records.jsonl; expected the folder"):
        write_report(tmp_path)
    mixed = [record("merge", "a", 0, {"x": 1.0}, suite=suite) for suite in ("ood", "crowd")]
    append_records(tmp_path, mixed)
    with pytest.raises(RequestError, match="holds the suites crowd, ood; expected one"):
        load_table(tmp_path)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(RequestError, match="measured nothing"):
        make_table([record("merge", "a", 0, {"x": None})])
