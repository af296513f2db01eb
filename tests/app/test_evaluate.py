"""``evaluate``: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import compose_app.evaluating as evaluating
from compose.evaluate.records import read_records
from compose.evaluate.runner import IDENTITY
from compose.fusion import methods
from tests.app.conftest import Run, parsed, refused

SUITE = "title: one\nseeds: 1\nsteps: 2\ngroups:\n  - {name: g, combinations: [[ember]]}\n"
CONTROLS = ("alone", "rendered", "prompt_only", "merge_mean", "merge_root", "random", "shuffled")


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands for the report, which has tests of its own; notes what it was asked."""
    asked: list[Any] = []

    def write_report(folder: Path, *, compare: Path | None) -> dict[str, Any]:
        asked.append((folder, compare))
        return {"suite": "one", "seeds": 1, "rows": [], "report": str(folder / "report.html")}

    monkeypatch.setattr(evaluating, "write_report", write_report)
    return asked


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(SUITE)
    return path


def test_a_suite_is_evaluated_and_later_methods_join(run: Run, suite: Path, report) -> None:
    flags = ("--out", "out", "--executor", "inline", "--json")
    done = run("evaluate", suite, "--methods", "merge", *flags)
    assert parsed(done) == {"suite": "one", "seeds": 1, "rows": [], "report": "out/report.html"}
    assert report == [(Path("out"), None)]
    assert "1 cases and seeds with 8 pictures to make: about" in done.stderr
    assert {r.row for r in read_records(Path("out"))} == {*CONTROLS, "merge"}
    before = read_records(Path("out"))
    again = run("evaluate", suite, "--methods", "switch", "--compare", "other", *flags)
    assert again.exit_code == 0 and "1 pictures to make" in again.stderr
    assert read_records(Path("out"))[:-1] == before
    assert read_records(Path("out"))[-1].row == "switch"
    assert report[1] == (Path("out"), Path("other"))
    nothing = run("evaluate", suite, "--methods", "merge,switch", *flags[:-1])
    assert (nothing.stdout, nothing.stderr) == ("out/report.html\n", "")
    other = run("evaluate", suite, "--steps", "3", "--methods", "merge", *flags)
    refused(other, "out", "another steps", "--out")


def test_a_budget_that_is_too_short(run: Run, suite: Path) -> None:
    flags = ("--executor", "inline", "--quiet", "--methods", "merge")
    refused(run("evaluate", suite, "--out", "out", "--budget", "0.01s", *flags), "longer --budget")
    assert not Path("out").exists()


def test_an_interrupt_keeps_what_is_done(
    run: Run, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluating.evaluate

    def cut(*args: Any, each: Any, **more: Any) -> Any:
        def stop(done: int, total: int) -> None:
            each(done, total)
            raise KeyboardInterrupt

        return whole(*args, each=stop, **more)

    monkeypatch.setattr(evaluating, "evaluate", cut)
    flags = ("--executor", "inline", "--methods", "merge", "--seeds", "2")
    done = run("evaluate", suite, "--out", "out", *flags)
    assert done.exit_code == 130
    last = done.stderr.splitlines()[-1]
    assert last.startswith("interrupted: 1 of 2 cases and seeds are done and kept")
    assert len(read_records(Path("out"))) == 8 and (Path("out") / IDENTITY).is_file()


def test_methods_that_cannot_be_used_are_said(
    run: Run, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Placed(methods()["merge"]):
        name = "placed"
        needs = frozenset({"telepathy"})

    monkeypatch.setattr("compose.evaluate.rows.methods", lambda: {"placed": Placed})
    monkeypatch.setattr("compose.evaluate.rows.method", lambda name: {"placed": Placed}[name])
    monkeypatch.setattr(evaluating, "missing_blocks", lambda *args: [])
    monkeypatch.setattr(evaluating, "evaluation_records", lambda *args: [])
    done = run("evaluate", suite, "--out", "out")
    assert done.stderr.startswith("warning: left out: method placed needs telepathy")
    refused(run("evaluate", suite, "--methods", "placed", "--out", "x"), "placed", "telepathy")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nothing"], ["'nothing'", "characters"]),
        (["charakters"], ["did you mean characters"]),
        (["none.yaml"], ["none.yaml", "cannot be read"]),
        (["wrong.yaml"], ["wrong.yaml", "key 'names'"]),
        (["one.yaml", "--methods", "merg"], ["merg", "did you mean merge"]),
        (["one.yaml", "--methods", ","], ["--methods"]),
        (["one.yaml", "--seeds", "0"], ["--seeds 0"]),
        (["one.yaml", "--steps", "0"], ["--steps 0"]),
        (["one.yaml", "--budget", "soon"], ["'soon'", "10m"]),
        (["one.yaml", "--budget", "0"], ["'0'"]),
        (["one.yaml", "--budget", "-3m"], ["'-3m'"]),
        (["one.yaml", "--budget", "infs"], ["'infs'"]),
        (["one.yaml", "--workers", "0"], ["--workers 0"]),
        (["one.yaml", "--workers", "2", "--executor", "inline"], ["--workers", "inline"]),
        (["one.yaml", "--executor", "ray"], ["ray"]),
        (["one.yaml", "--model", "nowhere"], ["nowhere"]),
        (["one.yaml", "--out", "one.yaml"], ["one.yaml", "--out"]),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(run: Run, suite, flags, words) -> None:
    Path("wrong.yaml").write_text(SUITE.replace("name: g", "names: g"))
    before = {*Path().iterdir()}
    refused(run("evaluate", "--out", "out", *flags), *words)
    assert {*Path().iterdir()} == before


def test_an_out_folder_has_to_be_named(run: Run, suite) -> None:
    refused(run("evaluate", suite), "--out")


@pytest.mark.parametrize(
    ("flags", "workers"),
    [
        ({"executor": "inline"}, 0),
        ({"executor": "processes", "workers": 3}, 3),
        ({"workers": 1}, 1),
    ],
)
def test_where_the_work_is_done(suite, flags, workers) -> None:
    usual = {"methods": None, "seeds": None, "steps": None, "model": "embedded", "device": "cpu"}
    where = {"executor": "auto", "workers": None}
    order = evaluating.Order.read(str(suite), **{**usual, **where, **flags})
    assert order.workers == workers
    assert [row.name for row in order.rows] == [*CONTROLS, *methods()]
    assert json.loads(json.dumps(order.identity()))["suite"] == "one"
