"""Training many adapters at once: which, with what, and one failure."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from compose.errors import ConceptError, RequestError
from compose.train import loras
from compose.world.concepts import shipped

GOOD = "trigger: <v1>\ncategory: style\nclass_word: style\ncount: 2\nstyle: sunwash\n"


def test_all_means_the_shipped_concepts() -> None:
    names = {path.stem for path in loras.concept_files("all")}
    assert names == {concept.name for concept in shipped()}


def test_only_some_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").touch()
    files = loras.concept_files(str(tmp_path), ["c", "a"])
    assert [file.stem for file in files] == ["a", "c"]
    with pytest.raises(RequestError, match=r"concepts d were asked for, .* holds a, b, c"):
        loras.concept_files(str(tmp_path), ["a", "d"])


def test_settings_from_the_command_line() -> None:
    read = loras.read_overrides(["rank=4", "lr=1e-3", "min_snr=null", "targets=wide"])
    assert read == {"rank": 4, "lr": "1e-3", "min_snr": None, "targets": "wide"}
    with pytest.raises(ConceptError, match=r"--set rank was given, KEY=VALUE is expected"):
        loras.read_overrides(["rank"])


def arguments(folder: Path, *settings: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    loras.add_arguments(parser)
    places = ["--concepts", str(folder), "--out", str(folder / "made"), "--gpus", "0"]
    return parser.parse_args([*places, *(f"--set={setting}" for setting in settings)])


def test_a_wrong_setting_stops_before_the_first_training(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "sorry.yaml").write_text(GOOD + "train: {rank: 0}\n")
    with pytest.raises(ConceptError, match=r"sorry\.yaml: train\.rank is 0"):
        loras.run(arguments(tmp_path))
    assert not (tmp_path / "made").exists()


def test_a_suffix_names_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("name: nice\n" + GOOD)
    (tmp_path / "b.yaml").write_text(GOOD)
    trained: list[loras.Job] = []
    monkeypatch.setattr(loras, "train_all", lambda jobs, workers: trained.extend(jobs) or {})
    given = arguments(tmp_path, "steps=2")
    given.suffix = "-tara"
    assert loras.run(given) == 0
    names = ["nice-tara.safetensors", "b-tara.safetensors"]
    assert [job.out for job in trained] == [tmp_path / "made" / name for name in names]
    given.suffix = "/../x"
    with pytest.raises(ConceptError, match="expected one that can be a file's"):
        loras.run(given)


def pretend(job: loras.Job) -> Path:
    if job.concept.stem == "bad":
        raise ConceptError("no luck")
    job.out.write_text(job.device)
    return job.out


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("bad", "good", "fine")
    jobs = [
        loras.Job(Path(f"{name}.yaml"), tmp_path, tmp_path / name, f"cuda:{number}")
        for number, name in enumerate(names)
    ]
    failed = loras.train_all(jobs, 2, pretend)
    assert {path.stem: str(error) for path, error in failed.items()} == {"bad": "no luck"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "good": "cuda:1",
        "fine": "cuda:2",
    }
    assert capsys.readouterr().out == ""


def test_a_job_trains_its_concept(tmp_path: Path) -> None:
    # late, since the processes of the test above import this file
    from tests.train.lora_pipeline import tiny_pipeline

    tiny_pipeline().save_pretrained(tmp_path / "base")
    (tmp_path / "good.yaml").write_text(GOOD)
    quick = {"steps": 2, "batch": 2, "captions": 1}
    job = loras.Job(tmp_path / "good.yaml", tmp_path / "base", tmp_path, "cpu", 1, quick)
    assert loras.train_job(job) == tmp_path / "good.safetensors"
    assert (tmp_path / "good.safetensors").stat().st_size > 1000
