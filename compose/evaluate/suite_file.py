"""Reading suites; errors name the file, the key and what would do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import yaml

from compose.errors import SuiteError, nearest
from compose.evaluate.suite import ORDER, Group, Suite
from compose.world.concepts import Concept, shipped
from compose.world.speaker import Phrasing

_SHIPPED = Path(__file__).parent / "suites"
_KEYS = ("title", "seeds", "steps", "groups")
_GROUP_KEYS = (
    "name", "adapters", "take", "sizes", "combinations", "wording", "templates", "weights",
    "dressed",
)  # fmt: skip
_SLOTS = {1: {"it"}, 2: {"left", "right"}, 3: {"left", "middle", "right"}}
_MOST_THINGS = 3  # that a picture of the world holds


def shipped_suites() -> dict[str, Path]:
    """Names and files of the suites that come with the package."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def find_suite(name: str) -> Suite:
    """A shipped suite by its name, or a suite file.

    Raises:
        SuiteError: there is none, or it says something impossible.
    """
    known = shipped_suites()
    if name in known:
        return load_suite(known[name])
    if name.endswith((".yaml", ".yml")):
        return load_suite(Path(name))
    raise SuiteError(
        f"no suite is called {name!r}, expected the name of one or a YAML file;"
        f" {nearest(name, known)}"
    )


def load_suite(path: Path) -> Suite:
    """Read a suite.

    Args:
        path: a YAML file; its name is the suite's.

    Raises:
        SuiteError: it cannot be read, or a key says something impossible.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(
            f"{path}: cannot be read ({error}); expected a suite's YAML file, check the path"
        ) from None
    except yaml.YAMLError as error:
        raise SuiteError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    at = _Reader(content, str(path))
    at.no_other_keys(_KEYS)
    concepts = {concept.name: concept for concept in shipped()}
    groups = tuple(_group(part, concepts) for part in at.parts("groups"))
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise SuiteError(f"{path}: groups: {names.count(name)} of them are called {name!r}")
    return Suite(
        name=path.stem,
        title=at.text("title"),
        seeds=at.whole("seeds", 4, 1, 1000),
        steps=at.whole("steps", 20, 1, 1000),
        groups=groups,
    )


def _group(at: _Reader, concepts: Mapping[str, Concept]) -> Group:
    at.no_other_keys(_GROUP_KEYS)
    ways = [key for key in ("adapters", "combinations") if key in at.given]
    if len(ways) != 1:
        raise SuiteError(
            f"{at.where}: {' and '.join(ways) or 'neither'} was given; expected either adapters"
            " (with take) or combinations"
        )
    found = _taken(at, concepts) if ways == ["adapters"] else _listed(at, concepts)
    things = [_check(at, ways[0], names, concepts) for names in found]
    templates = at.texts("templates", ())
    for template in templates:
        _check_template(at, template, set(things))
    return Group(
        name=at.identifier("name"),
        combinations=tuple(
            tuple(sorted(names, key=lambda name: ORDER.index(concepts[name].category)))
            for names in found
        ),
        wording=at.word("wording", get_args(Phrasing), "train"),  # type: ignore[arg-type]
        templates=templates,
        weights=tuple(at.numbers("weights", (1.0,), 0.0, 4.0)),
        dressed=at.numbers("dressed", (0.0,), 0.0, 1.0)[0],
    )


def _listed(at: _Reader, concepts: Mapping[str, Concept]) -> list[tuple[str, ...]]:
    """Combinations that are written out."""
    for key in ("take", "sizes"):
        if key in at.given:
            raise SuiteError(f"{at.where}: {key} was given beside combinations; it needs adapters")
    given = at.given["combinations"]
    if not isinstance(given, list) or not given:
        raise SuiteError(f"{at.where}: combinations is {given!r}; expected lists of adapters")
    return [at.names(f"combinations[{i}]", one, concepts) for i, one in enumerate(given)]


def _taken(at: _Reader, concepts: Mapping[str, Concept]) -> list[tuple[str, ...]]:
    """Every way to take so many adapters of each category."""
    adapters, take = at.part("adapters"), at.part("take")
    adapters.no_other_keys(ORDER)
    take.no_other_keys(tuple(adapters.given))
    choices = []
    for category in adapters.given:
        named = adapters.names(category, adapters.given[category], concepts)
        for name in named:
            if concepts[name].category != category:
                raise SuiteError(
                    f"{adapters.where}: {category} holds {name!r}, which is a"
                    f" {concepts[name].category}; move it there"
                )
        low, high = take.span(category, len(named))
        choices.append([c for n in range(low, high + 1) for c in combinations(named, n)])
    sizes = at.numbers("sizes", (), 1, 16)
    found = [tuple(name for part in parts for name in part) for parts in product(*choices)]
    kept = [names for names in found if names and (not sizes or len(names) in sizes)]
    if not kept:
        raise SuiteError(f"{at.where}: take leaves no combination; expected some, check sizes")
    return kept


def _check(at: _Reader, key: str, names: Sequence[str], concepts: Mapping[str, Concept]) -> int:
    """Refuse what no picture can show; the number of things that the picture will hold."""
    kinds = [concepts[name].category for name in names]
    things = kinds.count("character") + kinds.count("object")
    both = "+".join(names)
    if things > _MOST_THINGS:
        raise SuiteError(
            f"{at.where}: {key}: {both} are {things} things; a picture holds {_MOST_THINGS}"
        )
    for category in ("style", "background"):
        if kinds.count(category) > 1:
            raise SuiteError(f"{at.where}: {key}: {both} holds two of {category}; expected one")
    if kinds.count("clothing") > kinds.count("character"):
        raise SuiteError(
            f"{at.where}: {key}: {both} has more clothing than characters to wear it; drop some"
        )
    return max(things, 1)


def _check_template(at: _Reader, template: str, counts: set[int]) -> None:
    try:
        slots = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise SuiteError(f"{at.where}: templates: {template!r} is no template ({error})") from None
    for count in counts:
        wanted = _SLOTS[count] | {"where"}
        if slots != wanted:
            said = ", ".join("{" + name + "}" for name in sorted(wanted))
            raise SuiteError(
                f"{at.where}: templates: {template!r} does not fit pictures of {count} things;"
                f" expected the slots {said}, each of them"
            )


@dataclass(frozen=True)
class _Reader:
    """One mapping of a suite file: its keys, and file and part for messages."""

    given: Any
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.given, Mapping):
            raise SuiteError(f"{self.where}: holds {self.given!r}; expected keys and values")

    def no_other_keys(self, known: Sequence[str]) -> None:
        for key in self.given:
            if key not in known:
                raise SuiteError(
                    f"{self.where}: key {key!r} is unknown; {nearest(str(key), known)}"
                )

    def _need(self, key: str, good: Callable[[Any], bool], expected: str, *default: Any) -> Any:
        if key not in self.given and not default:
            raise SuiteError(f"{self.where}: {key} is missing; expected {expected}")
        value = self.given.get(key, *default)
        if not good(value):
            raise SuiteError(f"{self.where}: {key} is {value!r}; expected {expected}")
        return value

    def text(self, key: str) -> str:
        return str(self._need(key, lambda v: isinstance(v, str) and v != "", "text"))

    def identifier(self, key: str) -> str:
        def good(value: Any) -> bool:
            return isinstance(value, str) and value.isidentifier()

        return str(self._need(key, good, "one word of letters, digits and underscores"))

    def texts(self, key: str, default: Sequence[str]) -> tuple[str, ...]:
        def good(value: Any) -> bool:
            return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)

        return tuple(self._need(key, good, "a list of texts", default))

    def word(self, key: str, known: Sequence[str], default: str) -> str:
        return str(self._need(key, lambda v: v in known, f"one of {', '.join(known)}", default))

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        expected = f"a whole number from {low} to {high}"
        return int(self._need(key, lambda v: _whole(v, low, high), expected, default))

    def numbers(
        self, key: str, default: Sequence[float], low: float, high: float
    ) -> tuple[float, ...]:
        """One number, or a list of some."""
        value = self.given.get(key, list(default))
        listed = value if isinstance(value, list) else [value]
        if key in self.given and (not listed or not all(_number(v, low, high) for v in listed)):
            raise SuiteError(
                f"{self.where}: {key} is {value!r}; expected numbers from {low:g} to {high:g}"
            )
        return tuple(listed)

    def span(self, key: str, most: int) -> tuple[int, int]:
        """How many to take: a number, or the least and the most."""
        value = self._need(key, lambda v: True, f"how many to take, from 0 to {most}")
        ends = value if isinstance(value, list) else [value, value]
        if len(ends) != 2 or not all(_whole(v, 0, most) for v in ends) or ends[0] > ends[1]:
            raise SuiteError(
                f"{self.where}: {key} is {value!r}; expected a number from 0 to {most}, or two"
            )
        return ends[0], ends[1]

    def names(self, key: str, value: Any, concepts: Mapping[str, Concept]) -> tuple[str, ...]:
        """Different shipped concepts."""
        if not isinstance(value, list) or not value:
            raise SuiteError(f"{self.where}: {key} is {value!r}; expected a list of adapters")
        for name in value:
            if name not in concepts:
                raise SuiteError(
                    f"{self.where}: {key} names {name!r}, which no shipped adapter is called;"
                    f" {nearest(str(name), concepts)}"
                )
            if value.count(name) > 1:
                raise SuiteError(f"{self.where}: {key} names {name} more than once")
        return tuple(value)

    def part(self, key: str) -> _Reader:
        return _Reader(self.given.get(key), f"{self.where}: {key}")

    def parts(self, key: str) -> Iterator[_Reader]:
        listed = self._need(key, lambda v: isinstance(v, list) and len(v) > 0, "a list of groups")
        for i, value in enumerate(listed):
            yield _Reader(value, f"{self.where}: {key}[{i}]")


def _number(value: Any, low: float, high: float) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and math.isfinite(value) and low <= value <= high


def _whole(value: Any, low: int, high: int) -> bool:
    return _number(value, low, high) and isinstance(value, int)
