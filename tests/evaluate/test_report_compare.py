"""What changed from one report to the next, and what is noise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from compose.errors import RequestError
from compose.evaluate.records import NAME
from compose.evaluate.report import compare_reports, write_report
from tests.evaluate.planted import PAIRS, record, records, write


def spoiled(made, share: float, row: str = "regional"):
    """The same records, but a share of the right pictures of one row goes wrong."""
    rng = np.random.default_rng(0)
    out = []
    for one in made:
        if one.row == row and rng.random() < share:
            one = replace(one, measures={**one.measures, "all_primary": 0.0})
        out.append(one)
    return out


@pytest.fixture
def two(tmp_path):
    """A suite before and after a loss of about ten points in one row."""
    made = records({"merge": 0.3, "regional": 0.6}, seeds=16)
    before, after = tmp_path / "before", tmp_path / "after"
    write_report(write(before, made, pictures=False))
    write_report(write(after, spoiled(made, 0.2), pictures=False))
    return before / "report.json", after / "report.json"


def test_a_loss_is_seen_and_the_rest_is_the_same(two) -> None:
    found = compare_reports(*two)
    changed = {(c.method, c.metric): c for c in found.changes if c.verdict != "same"}
    assert set(changed) == {("regional", "all_primary")}
    change = changed["regional", "all_primary"]
    assert change.verdict == "worse" and change.paired and change.n == 160
    assert -0.2 < change.low < change.difference < change.high < 0
    assert change.difference == pytest.approx(change.new - change.old)
    assert any("worse: regional / 2 adapters / all_primary: 0." in line for line in found.lines())
    back = compare_reports(two[1], two[0])
    assert {c.verdict for c in back.changes} == {"same", "better"}


def test_without_the_old_records_less_is_seen(two) -> None:
    paired = compare_reports(*two)
    (two[0].parent / NAME).unlink()
    found = compare_reports(*two)
    for one, other in zip(paired.changes, found.changes, strict=True):
        assert not other.paired and other.difference == pytest.approx(one.difference)
        assert other.high - other.low > one.high - one.low
    assert not any(c.verdict == "same" for c in found.changes)
    assert all("not paired" in str(c) for c in found.changes)


def test_records_that_went_on_are_not_those_of_the_old_report(tmp_path) -> None:
    """The old report lies in the same folder, whose records have grown since."""
    made = records({"merge": 0.3})
    write(tmp_path, [r for r in made if r.seed < 2], pictures=False)
    first = write_report(tmp_path)
    write(tmp_path, [r for r in made if r.seed >= 2], pictures=False)
    second = write_report(tmp_path, compare=tmp_path / "report.json")
    changes = second["comparison"]["changes"]
    assert changes and not any(c["paired"] for c in changes)
    old = {r["metric"]: r["value"] for r in first["rows"]}
    assert {c["metric"]: c["old"] for c in changes} == old
    third = write_report(tmp_path, compare=tmp_path / "report.json")
    assert {c["verdict"] for c in third["comparison"]["changes"]} == {"same"}


def test_noise_is_called_noise(tmp_path) -> None:
    calls = 0
    for run in range(20):
        paths = []
        for side in range(2):
            folder = tmp_path / f"{run}-{side}"
            made = records({"merge": 0.5}, salt=2 * run + side)
            write_report(write(folder, made, pictures=False))
            paths.append(folder / "report.json")
        (change,) = (c for c in compare_reports(*paths).changes if c.metric == "all_primary")
        assert change.paired
        calls += change.verdict != "noise"
    assert calls <= 3


def test_other_prompts_are_no_pairs(two) -> None:
    folder = two[1].parent
    made = [replace(r, prompt=r.prompt + "!") for r in spoiled(
        records({"merge": 0.3, "regional": 0.6}, seeds=16), 0.2)]  # fmt: skip
    (folder / NAME).unlink()
    write_report(write(folder, made, pictures=False))
    assert not any(c.paired for c in compare_reports(*two).changes)


def test_verdicts_know_which_way_is_better(tmp_path) -> None:
    def side(name: str, value: float):
        made = [
            record("merge", f"c{i}", 0, {"bleed": value, "clip": 20 + value + i / 10},
                   adapters=[str(i)])
            for i in range(12)
        ]  # fmt: skip
        write_report(write(tmp_path / name, made, pictures=False))
        return tmp_path / name / "report.json"

    few, many = side("few", 0.0), side("many", 1.0)
    assert {c.metric: c.verdict for c in compare_reports(few, many).changes} == {
        "bleed": "worse",
        "clip": "higher",
    }
    assert {c.metric: c.verdict for c in compare_reports(many, few).changes} == {
        "bleed": "better",
        "clip": "lower",
    }


def test_a_single_picture_tells_nothing(tmp_path) -> None:
    for name, value in (("a", 0.0), ("b", 1.0)):
        made = [record("merge", "pairs/a+b/0", 0, {"all_primary": value})]
        write_report(write(tmp_path / name, made, pictures=False))
    found = compare_reports(tmp_path / "a/report.json", tmp_path / "b/report.json")
    assert [(c.verdict, c.difference, c.low) for c in found.changes] == [("unknown", 1.0, None)]


def test_rows_of_one_side_are_named(tmp_path) -> None:
    for name, rows in (("a", {"merge": 0.1, "old": 0.2}), ("b", {"merge": 0.1, "fresh": 0.3})):
        write_report(write(tmp_path / name, records(rows), pictures=False))
    found = compare_reports(tmp_path / "a/report.json", tmp_path / "b/report.json")
    assert (found.gone, found.fresh) == (("old",), ("fresh",))
    assert "only in the older report: old" in found.lines()
    assert {c.method for c in found.changes} == {"merge"}


def test_changes_stand_in_both_forms_of_the_report(two) -> None:
    report = write_report(two[1].parent, compare=two[0])
    direct = compare_reports(*two)
    written = json.loads(two[1].read_text())["comparison"]
    assert written["changes"] == report["comparison"]["changes"]
    assert [c["difference"] for c in written["changes"]] == [c.difference for c in direct.changes]
    assert written["against"] == str(two[0])


def test_what_is_no_report_is_refused(two, tmp_path) -> None:
    folder = two[1].parent
    page = folder / "report.html"
    page.unlink()
    for bad in (tmp_path / "missing.json", folder / NAME, folder):
        with pytest.raises(RequestError, match=r"is no report of an evaluation .* expected a"):
            write_report(folder, compare=bad)
    (tmp_path / "half.json").write_text('{"rows": [{"method": "merge"}], "suite": "characters"}')
    with pytest.raises(RequestError, match="is no report"):
        compare_reports(tmp_path / "half.json", two[1])
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    made = [replace(r, suite="crowd") for r in records(groups={"pairs": PAIRS[:2]}, seeds=1)]
    (other / NAME).unlink()
    write_report(write(other, made, pictures=False))
    with pytest.raises(RequestError, match="of suite crowd, this report of characters"):
        compare_reports(other / "report.json", two[1])
    assert not page.exists()
