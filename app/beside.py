"""Pictures that share denoiser calls, as each of them remembers the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from compose.errors import RequestError
from compose.request import Request

MAX_ROWS = 256
"""Most pictures of one denoiser call."""


@dataclass(frozen=True)
class Beside:
    """Pictures that were rows of the same denoiser calls. Sums of other numbers of rows round
    differently, so it takes all of them to make one again, bit for bit.

    Attributes:
        index: which of them the picture is.
        rows: prompt, negative prompt and seed of each; all else is the same.
    """

    index: int
    rows: tuple[tuple[str, str, int], ...]

    def requests(self, request: Request) -> list[Request]:
        """A request for each, from that of one of them."""
        return [
            replace(request, prompt=prompt, negative=negative, seeds=(seed,))
            for prompt, negative, seed in self.rows
        ]

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold; `from_json` reads it back."""
        return {"index": self.index, "rows": [list(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RequestError: rows that do not hold the picture, or too many.
            KeyError, TypeError: another form.
        """
        index, rows = data["index"], data["rows"]
        good = isinstance(rows, list) and all(
            isinstance(row, list) and [type(value) for value in row] == [str, str, int]
            for row in rows
        )
        if not good or type(index) is not int or not 0 <= index < len(rows) <= MAX_ROWS:
            raise RequestError(
                f"the recipe's picture is row {index!r} among some that make no sense; expected at"
                f" most {MAX_ROWS} of a prompt, a negative prompt and a seed"
            )
        return cls(index, tuple((p, n, s) for p, n, s in rows))

    @classmethod
    def of(cls, requests: Sequence[Request], index: int) -> Self:
        """From requests for one picture each."""
        return cls(index, tuple((r.prompt, r.negative, r.seeds[0]) for r in requests))
