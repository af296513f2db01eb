"""Values of a YAML file that remember where they stand, for errors with file, line and key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compose.errors import ComposeError, SpecError, nearest

MAX_FILE = 4 * 2**20
"""Largest file that is read, in bytes."""


@dataclass(frozen=True)
class Field:
    """A value and its place.

    Attributes:
        value: text, number, truth or None; a list of fields; or a table of fields by their keys.
        file: as it was named.
        line: counted from 1.
        key: path inside the file, such as ``items[0].grid.method``; empty for the whole file.
    """

    value: Any
    file: str
    line: int
    key: str = ""

    @property
    def where(self) -> str:
        """File, line and key, for the beginning of a message."""
        return f"{self.file}:{self.line}" + (f": {self.key}" if self.key else "")

    def wrong(self, expected: str) -> SpecError:
        """An error that says what was given and what was expected."""
        given = self.plain()
        shown = "nothing" if given is None else repr(given)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return SpecError(f"{self.where}: {shown} was given; expected {expected}")

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Errors about this value get its place.

        Raises:
            SpecError: in place of any other error that is raised on purpose.
        """
        try:
            yield
        except SpecError:
            raise
        except ComposeError as error:
            raise SpecError(f"{self.where}: {error}") from None

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: field.plain() for key, field in self.value.items()}
        if isinstance(self.value, list):
            return [field.plain() for field in self.value]
        return self.value

    def table(self, known: Sequence[str] | None = None) -> dict[str, Field]:
        """A table, with no keys but these.

        Raises:
            SpecError: no table, or an unknown key, which is told with its line.
        """
        if not isinstance(self.value, dict):
            raise self.wrong("keys and values")
        for name, field in self.value.items():
            if known is not None and name not in known:
                raise SpecError(f"{field.where}: there is no such key; {nearest(name, known)}")
        return self.value

    def listed(self, expected: str) -> list[Field]:
        """A list that is not empty."""
        if not isinstance(self.value, list) or not self.value:
            raise self.wrong(f"a list of {expected}")
        return self.value

    def text(self, expected: str = "text") -> str:
        """A text; numbers count as what they look like."""
        if isinstance(self.value, bool) or not isinstance(self.value, str | int | float):
            raise self.wrong(expected)
        return str(self.value)

    def number(self, expected: str = "a number") -> float:
        """A finite number."""
        good = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not good or not math.isfinite(self.value):
            raise self.wrong(expected)
        return float(self.value)

    def whole(self, low: int, high: int) -> int:
        """A whole number in a range."""
        good = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not good or not low <= self.value <= high:
            raise self.wrong(f"a whole number from {low} to {high}")
        return int(self.value)

    def one_of(self, known: Sequence[str]) -> str:
        """One of some words."""
        if self.value not in known:
            raise self.wrong(f"one of {', '.join(known)}")
        return str(self.value)


def read_fields(path: Path) -> Field:
    """Read a YAML file.

    Raises:
        SpecError: it cannot be read, is no YAML, or gives a key twice.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise SpecError(
                f"{path}: is larger than {MAX_FILE // 2**20} MiB; expected a batch file"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: cannot be read ({error}); expected a batch's YAML file, check the path"
        ) from None
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise SpecError(f"{path}:1: the file is empty; expected items to make")
        return _Reader(str(path), loader).field(node, "", ())
    except yaml.MarkedYAMLError as error:
        line = 1 if error.problem_mark is None else error.problem_mark.line + 1
        said = error.problem or error.context
        raise SpecError(f"{path}:{line}: is not YAML ({said}); correct it there") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise SpecError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    finally:
        loader.dispose()


class _Reader:
    """Turns the nodes of one file into fields."""

    def __init__(self, file: str, loader: yaml.SafeLoader) -> None:
        self.file = file
        self.loader = loader
        self.count = 0

    def field(self, node: yaml.Node, key: str, above: tuple[yaml.Node, ...]) -> Field:
        line = node.start_mark.line + 1
        self.count += 1
        if any(node is one for one in above) or self.count > 1_000_000:
            raise SpecError(f"{self.file}:{line}: {key}: an alias stands inside what it repeats")
        inside = (*above, node)
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self.table(node, key, inside)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.field(n, f"{key}[{i}]", inside) for i, n in enumerate(node.value)]
        else:
            value = self.loader.construct_object(node)
        return Field(value, self.file, line, key)

    def table(
        self, node: yaml.MappingNode, key: str, above: tuple[yaml.Node, ...]
    ) -> dict[str, Field]:
        names = [(name, self.name(name, key)) for name, _ in node.value]
        seen: set[str] = set()
        for at, name in names:
            if name in seen:
                line = at.start_mark.line + 1
                raise SpecError(f"{self.file}:{line}: {name} was given twice; expected it once")
            seen.add(name)
        self.loader.flatten_mapping(node)  # "<<: *defaults"; own keys come last and count
        found: dict[str, Field] = {}
        for at, inner in node.value:
            name = self.name(at, key)
            field = self.field(inner, f"{key}.{name}" if key else name, above)
            found[name] = Field(field.value, self.file, at.start_mark.line + 1, field.key)
        return found

    def name(self, node: yaml.Node, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            line = node.start_mark.line + 1
            raise SpecError(f"{self.file}:{line}: {key}: a key is no text; expected a word")
        return str(node.value)
