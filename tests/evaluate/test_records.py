"""Records: lines that survive a crash."""

from __future__ import annotations

import pytest

from compose.errors import RequestError
from compose.evaluate.records import NAME, Record, append_records, read_records


def record(seed: int) -> Record:
    return Record(
        "characters", "mochi+ember/0", "merge", False, seed, ("mochi", "ember"), "two cats",
        f"merge/{seed}.png", {"all_right": 1.0, "bleed": None}, {"rows": 40, "seconds": 1.25},
    )  # fmt: skip


def test_records_come_back(tmp_path) -> None:
    assert read_records(tmp_path) == []
    append_records(tmp_path, [record(0), record(1)])
    append_records(tmp_path, [record(2)])
    assert read_records(tmp_path) == [record(0), record(1), record(2)]


def test_a_torn_line_is_lost_alone(tmp_path) -> None:
    append_records(tmp_path, [record(0), record(1)])
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-20])
    assert read_records(tmp_path) == [record(0)]
    append_records(tmp_path, [record(5)])
    assert read_records(tmp_path) == [record(0), record(5)]


@pytest.mark.parametrize("line", ["", "[]", "{", '{"suite": "x"}', '{"adapters": 3}'])
def test_another_line_is_refused(tmp_path, line) -> None:
    (tmp_path / NAME).write_text(line + "\n" + record(0).to_json() + "\n")
    with pytest.raises(RequestError, match="no record"):
        read_records(tmp_path)
