"""One thread owns the model: jobs in turn, cancelled between steps, nothing left behind."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from compose.errors import ModelError, RequestError
from compose_app.order import Column, Setting, compared
from compose_app.studio import Studio
from compose_app.ui import worker as module
from compose_app.ui.axes import read_axis
from compose_app.ui.confined import NamedAdapters
from compose_app.ui.form import Form, Row
from compose_app.ui.work import Laid, Made, Stepped, Warned, make_columns, make_plane
from compose_app.ui.worker import Ended, Event, Job, Waiting, Worker

FORM = Form(
    "mochi cat",
    rows=(Row("tiny_one"), Row("tiny_two", 0.5)),
    method="composite",
    steps=4,
    seed=5,
)


@pytest.fixture(scope="module")
def names(library: Path) -> NamedAdapters:
    return NamedAdapters([library])


@pytest.fixture(scope="module")
def worker(model: Path, names: NamedAdapters) -> Iterator[Worker]:
    found = Worker(Setting(str(model)), names)
    found.start()
    yield found
    found.close()


def made(worker: Worker, folder: Path, form: Form = FORM, owner: str = "a") -> list[Event]:
    """Everything that is told of the pictures of a form."""
    folder.mkdir(exist_ok=True)
    request = form.request(worker.library)
    work = make_columns([Column(request.method.name, request)], folder)
    return list(worker.follow(worker.submit(owner, work)))


def pixels(path: Path) -> str:
    with Image.open(path) as image:
        return hashlib.sha256(image.tobytes()).hexdigest()


def test_steps_and_pictures_are_told_in_order(worker: Worker, tmp_path: Path) -> None:
    events = made(worker, tmp_path)
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [(s.done, s.total) for s in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    (picture,) = [event.path for event in events if isinstance(event, Made)]
    assert picture.parent == tmp_path and events[-1] == Ended()


def test_cancelling_ends_between_steps_and_the_next_picture_is_bit_equal(
    worker: Worker, tmp_path: Path
) -> None:
    first = next(e.path for e in made(worker, tmp_path / "a") if isinstance(e, Made))
    request = FORM.request(worker.library)
    (tmp_path / "b").mkdir()
    job = worker.submit("a", make_columns([Column("composite", request)], tmp_path / "b"))
    seen: list[Event] = []
    for event in worker.follow(job):
        seen.append(event)
        if isinstance(event, Stepped):
            job.cancel()
    assert seen[-1] == Ended(cancelled=True)
    assert not any(isinstance(event, Made) for event in seen)
    assert not list((tmp_path / "b").iterdir())
    again = next(e.path for e in made(worker, tmp_path / "c") if isinstance(e, Made))
    assert pixels(again) == pixels(first) and again.read_bytes() == first.read_bytes()


def test_a_look_at_the_latents_changes_no_bit(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(e.path for e in made(worker, tmp_path / "a") if isinstance(e, Made))
    monkeypatch.setattr("compose_app.ui.work._PAUSE", 0.0)
    events = made(worker, tmp_path / "b")
    looks = [e.preview for e in events if isinstance(e, Stepped) and e.preview is not None]
    assert len(looks) == 3 and len({look.tobytes() for look in looks}) == 3
    second = next(e.path for e in events if isinstance(e, Made))
    assert pixels(second) == pixels(first)


def test_jobs_wait_their_turn_and_only_their_owner_cancels_them(worker: Worker) -> None:
    go, order = threading.Event(), []

    def slow(studio: Studio, job: Job) -> None:
        go.wait()
        job.check()
        order.append(job.owner)

    jobs = [worker.submit(owner, slow) for owner in ("a", "b", "c")]
    assert next(worker.follow(jobs[2])) == Waiting(2)  # leaving the loop cancels it
    worker.cancel("b")
    go.set()
    ends = [list(worker.follow(job))[-1] for job in jobs]
    assert ends == [Ended(), Ended(cancelled=True), Ended(cancelled=True)]
    assert order == ["a"]


def test_too_many_jobs_are_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    go = threading.Event()
    jobs = [worker.submit("a", lambda studio, job: go.wait() and None) for _ in range(2)]
    with pytest.raises(RequestError, match="waiting already"):
        worker.submit("a", lambda studio, job: None)
    go.set()
    assert [list(worker.follow(job))[-1] for job in jobs] == [Ended(), Ended()]


def test_what_the_model_refuses_is_told_in_its_words(worker: Worker, tmp_path: Path) -> None:
    odd = Form("cat", width=33, height=32, steps=1)
    (ended,) = made(worker, tmp_path, odd)
    assert "size 33x32" in ended.error and "Traceback" not in ended.error


def test_our_own_faults_are_told_without_a_traceback(
    worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(studio: Studio, job: Job) -> None:
        raise ZeroDivisionError("secret")

    (ended,) = worker.follow(worker.submit("a", broken))
    assert "secret" not in ended.error and "our side" in ended.error
    assert "ZeroDivisionError: secret" in capsys.readouterr().err
    assert list(worker.follow(worker.submit("a", lambda studio, job: None))) == [Ended()]


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path, names: NamedAdapters) -> None:
    with pytest.raises(ModelError):
        Worker(Setting(str(tmp_path / "nothing")), names).start()


def test_a_comparison_is_the_single_pictures(worker: Worker, tmp_path: Path) -> None:
    request = FORM.request(worker.library)
    columns = compared(request, [FORM.chosen("merge"), FORM.chosen("composite")])
    assert [c.label for c in columns] == ["base", "tiny_one", "tiny_two", "merge", "composite"]
    work = make_columns(columns, tmp_path, sheet=True)
    events = list(worker.follow(worker.submit("a", work)))
    alone = next(e.path for e in made(worker, tmp_path / "one") if isinstance(e, Made))
    last = [e.path for e in events if isinstance(e, Made)][-1]
    assert last.read_bytes() == alone.read_bytes()
    assert [e.path.exists() for e in events if isinstance(e, Laid)] == [True]


def test_an_explained_picture_is_the_same_with_a_sheet(worker: Worker, tmp_path: Path) -> None:
    plain = next(e.path for e in made(worker, tmp_path / "a") if isinstance(e, Made))
    (tmp_path / "b").mkdir()
    request = FORM.request(worker.library)
    work = make_columns([Column("composite", request)], tmp_path / "b", explain=True)
    events = list(worker.follow(worker.submit("a", work)))
    (told,) = [e.path for e in events if isinstance(e, Made)]
    (sheet,) = [e.path for e in events if isinstance(e, Laid)]
    assert pixels(told) == pixels(plain) and sheet.stem == f"{told.stem}-explain"
    assert any(isinstance(e, Warned) and "tiny_one" in e.text for e in events)


def test_a_plane_has_a_cell_for_every_pair_of_values(worker: Worker, tmp_path: Path) -> None:
    across, down = read_axis("weight of tiny_two", "0,1"), read_axis("seed", "5,6")
    cells = [
        [across.put(down.put(FORM, s), w).request(worker.library) for w in across.values]
        for s in down.values
    ]
    work = make_plane(cells, across, down, tmp_path)
    events = list(worker.follow(worker.submit("a", work)))
    assert events[-1] == Ended()
    pictures = [e.path for e in events if isinstance(e, Made)]
    assert len({pixels(path) for path in pictures}) == 4
    assert [path.name[0] for path in pictures] == ["5", "5", "6", "6"]
    assert any(isinstance(e, Laid) for e in events)


def test_warnings_are_told(worker: Worker, tmp_path: Path) -> None:
    events = made(worker, tmp_path, Form("cat", rows=(Row("tiny_one"),), steps=1, seed=1))
    (warned,) = [event.text for event in events if isinstance(event, Warned)]
    assert "mochi" in warned
