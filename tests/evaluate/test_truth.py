"""Distance to true pictures and variety, on pictures whose answer is known."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

from compose.errors import RequestError
from compose.evaluate.cases import Case, make_cases
from compose.evaluate.features import NAME, read_features, update_features
from compose.evaluate.records import Record, append_records
from compose.evaluate.report import write_report
from compose.evaluate.truth import corpus_figures, kid, kid_core, mean_distance
from compose.world.renderer import render
from compose.world.scene import Scene
from tests.evaluate.known import suite

WORK = make_cases(suite(("ember", "bolt"), ("biscuit", "domino"), ("bolt", "domino")), 12)
Drawn = dict[tuple[str, int], Scene]


def other(case: Case, seed: int) -> Scene:
    """Another true picture of the same question."""
    return case.scene(seed + 1000)


def pictures(folder: Path, row: str, scenes: Drawn) -> list[Record]:
    """Draw the pictures of a row and save them as an evaluation does."""
    records = []
    images = render(list(scenes.values()))
    for i, ((case, seed), picture) in enumerate(zip(scenes, images, strict=True)):
        image = f"pictures/{row}/{i}.png"
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        pixels = picture.permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / image)
        records.append(Record("planted", case, row, False, seed, ("x",), "", image))
    return records


def drawn(change) -> Drawn:
    return {(case.name, seed): change(case, seed) for case, seed in WORK}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Rows: true pictures, others as true, others in a wrong style, always the same ones."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = {
        "rendered": drawn(lambda case, seed: case.scene(seed)),
        "true": drawn(other),
        "washed": drawn(lambda case, seed: replace(other(case, seed), style="sunwash")),
        "stuck": drawn(lambda case, seed: other(case, 0)),
        "alone": drawn(other),
    }
    update_features(folder, [r for row, s in rows.items() for r in pictures(folder, row, s)])
    return folder


def test_kid_is_the_published_estimator() -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 5, generator=g), torch.randn(7, 5, generator=g) + 0.5

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() @ b.double() / 5 + 1) ** 3)

    total = sum(
        k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i])
        for i, j in product(range(7), repeat=2)
        if i != j
    )
    assert kid(kid_core(x, y)) == pytest.approx(total / 42, rel=1e-9)
    assert kid(kid_core(x, x)) == 0.0


def test_kid_of_equal_distributions_is_zero_on_average() -> None:
    g = torch.Generator().manual_seed(2)
    draws = [torch.randn(2, 20, 8, generator=g) for _ in range(300)]
    found = torch.tensor([kid(kid_core(*draw)) for draw in draws])
    assert abs(float(found.mean())) < 3 * float(found.std()) / 300**0.5


def test_true_pictures_are_near_and_faulty_ones_far(folder) -> None:
    found = {(f.row, f.metric): f for f in corpus_figures(folder)}
    assert set(found) == set(product(("true", "washed", "stuck"), ("kid", "diversity")))
    true, washed = found["true", "kid"], found["washed", "kid"]
    assert true.low <= 0 <= true.high
    assert washed.low > max(true.high, 0)
    assert washed.value > 10 * abs(true.value)
    assert found["true", "diversity"].value == pytest.approx(1, abs=0.15)
    assert found["stuck", "diversity"].value == 0.0
    assert all(f.low <= f.value <= f.high and (f.n, f.units) == (36, 18) for f in found.values())


def test_mean_distance_by_hand() -> None:
    assert mean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(
        10 / 3
    )


def test_features_are_made_once_and_come_out_the_same(folder, tmp_path) -> None:
    scenes = drawn(other)
    some = dict(list(scenes.items())[:5])
    early = pictures(tmp_path, "true", some)
    update_features(tmp_path, early)
    assert len(read_features(tmp_path)["true"].keys) == 5
    update_features(tmp_path, pictures(tmp_path, "true", scenes))
    grown = (tmp_path / NAME).read_bytes()
    got, once = read_features(tmp_path)["true"], read_features(folder)["true"]
    assert got.keys == once.keys and torch.equal(got.values, once.values)
    update_features(tmp_path, pictures(tmp_path, "true", scenes))
    assert (tmp_path / NAME).read_bytes() == grown


def test_a_lost_picture_is_said(tmp_path) -> None:
    records = pictures(tmp_path, "true", drawn(other))
    (tmp_path / records[3].image).unlink()
    with pytest.raises(RequestError, match=r"3\.png belongs to a record"):
        update_features(tmp_path, records)


def test_nothing_to_compare_with(tmp_path) -> None:
    assert corpus_figures(tmp_path) == []
    update_features(tmp_path, pictures(tmp_path, "true", drawn(other)))
    assert corpus_figures(tmp_path) == []


def test_the_report_shows_them_beside_the_others(folder, tmp_path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "evaluation"))
    rows = ("rendered", "true", "washed")
    records = [r for row in rows for r in pictures(copied, row, drawn(other))]
    append_records(copied, [replace(r, measures={"all_primary": 1.0}) for r in records])
    written = write_report(copied)["rows"]
    for found in corpus_figures(copied):
        shown = [r for r in written if (r["method"], r["metric"]) == (found.row, found.metric)]
        if found.row not in rows:
            assert shown == []
            continue
        values = {name: getattr(found, name) for name in ("value", "low", "high", "n", "units")}
        assert shown == [
            {"method": found.row, "metric": found.metric, "group": None, "adapters": 1, **values}
        ]
    page = (copied / "report.html").read_text()
    assert "distance to true pictures" in page and "variety" in page
