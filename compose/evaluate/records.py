"""What an evaluation keeps of every picture: one line of JSON, the only thing that measures hand to
tables, reports and comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from compose.errors import RequestError
from compose.lines import Journal, read_lines

NAME = "records.jsonl"


@dataclass(frozen=True)
class Record:
    """One picture, judged.

    Attributes:
        suite: name of the suite.
        case: what was asked for: the same for all rows, so that rows are paired by (case, seed).
        row: name of a composition method, or of a control ("prompt_only", "alone", ...).
        control: whether the row is a control.
        seed: which of the seeds of its case; the noise is drawn from both.
        adapters: names, in the order of the request.
        prompt: as it was encoded.
        image: the picture's file, relative to the folder of the records.
        measures: name to value: 0 or 1 for what is right or wrong, a real number for others, None
            where the measure says nothing about this picture.
        cost: forwards, rows, cached_rows, backwards, seconds, and peak memory in bytes where known.
    """

    suite: str
    case: str
    row: str
    control: bool
    seed: int
    adapters: tuple[str, ...]
    prompt: str
    image: str
    measures: Mapping[str, float | None] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it one of a kind: suite, row, case, seed."""
        return self.suite, self.row, self.case, self.seed

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RequestError: another form.
        """
        try:
            data: dict[str, Any] = json.loads(line)
            return cls(**{**data, "adapters": tuple(data["adapters"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(
                f"{line[:80]!r} is no record of an evaluation ({error}); expected a line that"
                " lora-compose evaluate wrote"
            ) from None


def read_records(folder: Path) -> list[Record]:
    """All records of a folder; none where there is no file. A torn last line is left out.

    Raises:
        RequestError: a line in the middle that is no record.
    """
    return [Record.from_json(line) for line in read_lines(folder / NAME)]


def append_records(folder: Path, records: Iterable[Record]) -> None:
    """Add records at the end of a folder's file; a torn last line is cut off first."""
    with Journal(folder / NAME) as journal:
        journal.add(record.to_json() for record in records)
