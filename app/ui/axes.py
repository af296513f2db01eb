"""Axes of an X/Y grid: a setting of the page and the values it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from compose.errors import RequestError, nearest
from compose.fusion import method as method_named
from compose.prompt import read_number

from .form import Form

_WEIGHT = "weight of "
_LONGEST = 64  # most values of an axis


def _whole(text: str) -> int:
    number = read_number(text)
    if number is None or number != int(number):
        raise ValueError(text)
    return int(number)


def _number(text: str) -> float:
    number = read_number(text)
    if number is None:
        raise ValueError(text)
    return number


AXES: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {"method": str, "seed": _whole, "steps": _whole, "guidance": _number, "scheduler": str}
)
"""Settings of a `Form` that can be an axis, and how their values are read."""


@dataclass(frozen=True)
class Axis:
    """One direction of a grid.

    Attributes:
        name: a key of `AXES`, "weight of NAME", or "METHOD.FIELD".
        values: one for every row or column.
    """

    name: str
    values: tuple[Any, ...]

    def put(self, form: Form, value: Any) -> Form:
        """The form with one of the values.

        Raises:
            RequestError: the form has no such adapter.
        """
        if self.name in AXES:
            return replace(form, **{self.name: value})
        if not self.name.startswith(_WEIGHT):
            return replace(form, fields={**form.fields, self.name: value})
        wanted = self.name.removeprefix(_WEIGHT)
        names = [row.name for row in form.rows]
        if wanted not in names:
            raise RequestError(
                f"the axis {self.name!r} is for no adapter of the page; {nearest(wanted, names)}"
            )
        rows = (replace(r, weight=value) if r.name == wanted else r for r in form.rows)
        return replace(form, rows=tuple(rows))

    def labels(self) -> list[str]:
        """What stands beside the rows or above the columns."""
        bare = self.name in ("method", "scheduler")
        return [f"{v}" if bare else f"{self.name} {v}" for v in self.values]


def read_axis(name: str, text: str) -> Axis:
    """An axis from its name and its values, with commas between; ``1..4`` is 1, 2, 3, 4.

    Raises:
        RequestError: no such setting, no values, or one that makes no sense.
    """
    name = name.strip()
    read = _reader(name)
    parts = [part for piece in text.split(",") for part in _spread(piece.strip())]
    if not 1 <= len(parts) <= _LONGEST:
        raise RequestError(
            f"the axis {name!r} has {len(parts)} values; expected 1 to {_LONGEST}, with commas"
            " between"
        )
    try:
        return Axis(name, tuple(read(part) for part in parts))
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"the axis {name!r} has the value {str(error)!r}; expected numbers with commas between"
        ) from None


def _reader(name: str) -> Callable[[str], Any]:
    if name in AXES:
        return AXES[name]
    if name.startswith(_WEIGHT):
        return _number
    kind, dot, field = name.partition(".")
    if not dot:
        known = [*AXES, f"{_WEIGHT}NAME", "METHOD.FIELD"]
        raise RequestError(f"{name!r} is no axis; expected one of {', '.join(known)}")
    params = {param.name: param for param in method_named(kind).params()}
    if field not in params:
        raise RequestError(f"method {kind} has no field {field!r}; {nearest(field, params)}")
    return params[field].check


def _spread(piece: str) -> list[str]:
    first, dots, last = piece.partition("..")
    if dots and first.isdigit() and last.isdigit() and len(first + last) < 12:
        return [str(n) for n in range(int(first), min(int(last), int(first) + _LONGEST) + 1)]
    return [piece] if piece else []
