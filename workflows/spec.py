"""Batch files: YAML to the pictures that are to be made."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from compose.errors import RequestError, SpecError, nearest
from compose.models.options import USUAL, LoadOptions
from compose.request import MAX_SEED
from compose_app.flags import MAX_COUNT

from .fields import Field, read_fields
from .plan import Item, Job, plan_jobs
from .requests import RequestReader, Settings, find_method, with_method
from .wildcards import drawn, fill

KEYS = (
    *("items", "defaults", "wildcards", "seed", "retries", "together", "device", "dtype", "load"),
)
PLAIN = (
    *("prompt", "negative", "method", "steps", "guidance", "true_cfg", "clip_skip", "size"),
    *("scheduler", "seed", "model", "adapters"),
)
"""Keys of an item that a grid or an override may change."""
ITEM_KEYS = (*PLAIN, "set", "seeds", "count", "name", "grid", "matrix", "overrides")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_WILD = re.compile(r"__(.+)__")
_FRESH_SEEDS = 2**32
Axes = Mapping[str, Sequence[Field]]


@dataclass(frozen=True)
class Batch:
    """A batch file, read and checked.

    Attributes:
        items: every picture, in the order of the file.
        jobs: the same in the order of work, those that share denoiser calls together.
        retries: how often a picture that failed is tried again.
        device, dtype, options: as for `Composer.load`.
    """

    items: tuple[Item, ...]
    jobs: tuple[Job, ...]
    retries: int = 2
    device: str = "auto"
    dtype: str = "auto"
    options: LoadOptions = USUAL


def read_batch(path: Path) -> Batch:
    """Read a batch file.

    Raises:
        SpecError: it cannot be read, or something in it makes no sense; told with file, line and
            key.
    """
    table = read_fields(path).table(KEYS)
    if "items" not in table:
        raise SpecError(f"{path}:1: items is missing; expected a list of what to make")
    reader = _BatchReader(path, table)
    items = tuple(reader.items())
    return Batch(
        items=items,
        jobs=plan_jobs(items, table["together"].whole(1, 256) if "together" in table else 1),
        retries=table["retries"].whole(0, 100) if "retries" in table else 2,
        device=table["device"].one_of(("auto", "cpu", "cuda")) if "device" in table else "auto",
        dtype=table["dtype"].one_of(_DTYPES) if "dtype" in table else "auto",
        options=_options(table["load"]) if "load" in table else USUAL,
    )


_DTYPES = ("auto", "fp32", "bf16", "fp16")


class _BatchReader:
    """Expands the items of a file."""

    def __init__(self, path: Path, table: Mapping[str, Field]) -> None:
        self.folder = path.parent
        self.table = table
        self.seed = table["seed"].whole(0, MAX_SEED) if "seed" in table else 0
        self.wildcards = self._wildcards()
        self.requests = RequestReader(self.folder)
        self.count = 0

    def items(self) -> Iterator[Item]:
        """Every picture."""
        defaults = self.table.get("defaults")
        names: set[str] = set()
        for at in self.table["items"].listed("items"):
            own = at.table(ITEM_KEYS)
            name = _name(at, own)
            if name in names:
                raise own["name"].wrong("a name that no other item has")
            names.add(name)
            below = {} if defaults is None else flat(defaults.table((*PLAIN, "set", "count")))
            yield from self._entry(name, at, {**below, **flat(own)})

    def _entry(self, name: str, at: Field, settings: Settings) -> Iterator[Item]:
        axes = _axes(settings.get("grid"))
        if "prompt" not in settings and "prompt" not in axes:
            raise SpecError(f"{at.where}: prompt is missing; expected what to draw")
        overrides = _overrides(settings.get("overrides"), axes)
        parts = _texts(settings["matrix"]) if "matrix" in settings else []
        seeds = self._seeds(name, settings)
        if "seed" in axes and "seeds" in settings:
            raise settings["seeds"].wrong("seeds in the grid or here, not both")
        self._weigh(at, axes, parts, seeds)
        cells = list(_cells(settings, axes, overrides))
        kinds = dict(find_method(cell.get("method")) for _, cell in cells)
        number = 0
        for labels, cell in cells:
            for variant in product((False, True), repeat=len(parts)):
                chosen = [part for part, on in zip(parts, variant, strict=True) if on]
                label = {"matrix": " + ".join(chosen) or "plain"} if parts else {}
                for picture, seed in enumerate(self._seeds(name, cell)):
                    number += 1
                    prompt, negative = self._texts(name, picture, cell, chosen)
                    request = self.requests.read(cell, prompt, negative, seed)
                    request = with_method(request, cell, kinds)
                    model = cell["model"].text("a model") if "model" in cell else "embedded"
                    axis = {**labels, **label}
                    yield Item(name, number, axis, picture, model, request.to_json())

    def _texts(
        self, name: str, picture: int, cell: Settings, chosen: Sequence[str]
    ) -> tuple[str, str]:
        """Prompt and negative prompt with their random parts chosen."""
        fixed = {m[1]: [f.text()] for key, f in cell.items() if (m := _WILD.fullmatch(key))}
        values = {**self.wildcards, **fixed}
        found = []
        for key, more in (("prompt", chosen), ("negative", [])):
            if key not in cell:
                found.append("")
                continue
            text = ", ".join([cell[key].text(), *more])
            with cell[key].blamed():
                found.append(fill(text, values, "pick", self.seed, name, picture, key))
        return found[0], found[1]

    def _seeds(self, name: str, settings: Settings) -> list[int]:
        """One for each picture of a place in the grid: the same at every place."""
        count = settings["count"].whole(1, MAX_COUNT) if "count" in settings else 1
        if "seeds" in settings:
            for other in ("seed", "count"):
                if other in settings and settings[other].key.startswith("items"):
                    raise settings[other].wrong("either seeds, or seed and count")
            return [one.whole(0, MAX_SEED) for one in settings["seeds"].listed("seeds")]
        if "seed" in settings:
            first = settings["seed"].whole(0, MAX_SEED - count + 1)
            return list(range(first, first + count))
        return [drawn("seed", self.seed, name, i) % _FRESH_SEEDS for i in range(count)]

    def _weigh(self, at: Field, axes: Axes, parts: Sequence[str], seeds: Sequence[int]) -> None:
        """Refuse what would be too much, before it is made."""
        self.count += math.prod(map(len, axes.values())) * 2 ** len(parts) * len(seeds)
        if self.count > MAX_COUNT:
            raise SpecError(
                f"{at.where}: the batch has {self.count} pictures up to here; expected at most"
                f" {MAX_COUNT}, so split the file"
            )

    def _wildcards(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if "wildcards" not in self.table:
            return found
        for name, at in self.table["wildcards"].table().items():
            found[name] = _texts(at) if isinstance(at.value, list) else self._lines(at)
        return found

    def _lines(self, at: Field) -> list[str]:
        path = self.folder / at.text("a list of texts, or a text file with one a line")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise at.wrong(f"a text file, but {path} cannot be read ({error})") from None
        kept = [line for line in lines if line and not line.startswith("#")]
        if not kept:
            raise at.wrong(f"a text file with values, but {path} has none")
        return kept


def flat(table: Mapping[str, Field]) -> dict[str, Field]:
    """A table with the fields of its methods as ``set.NAME``."""
    found = {key: field for key, field in table.items() if key != "set"}
    if "set" in table:
        found.update({f"set.{name}": field for name, field in table["set"].table().items()})
    return found


def _name(at: Field, own: Mapping[str, Field]) -> str:
    if "name" not in own:
        raise SpecError(f"{at.where}: name is missing; expected a word, which seeds come from")
    name = own["name"].text("a word")
    if not _NAME.fullmatch(name) or len(name) > 80:
        raise own["name"].wrong("a word of letters, digits, dots and dashes")
    return name


def _axes(at: Field | None) -> dict[str, list[Field]]:
    if at is None:
        return {}
    axes = {}
    for name, field in at.table().items():
        dotted = name.startswith(("set.", "weight.")) or _WILD.fullmatch(name)
        if name not in PLAIN and not dotted:
            known = (*PLAIN, "set.FIELD", "weight.ADAPTER", "__WILDCARD__")
            raise SpecError(f"{field.where}: there is no such axis; {nearest(name, known)}")
        axes[name] = field.listed("values")
    return axes


@dataclass(frozen=True)
class _Override:
    when: Mapping[str, Any]
    settings: Settings


def _overrides(at: Field | None, axes: Axes) -> list[_Override]:
    found = []
    for one in [] if at is None else at.listed("overrides"):
        table = dict(one.table((*PLAIN, "set", "when")))
        if "when" not in table:
            raise one.wrong("when, with axes of the grid and their values")
        when = table.pop("when").table(tuple(axes))
        for name, field in when.items():
            if field.plain() not in [value.plain() for value in axes[name]]:
                raise field.wrong(f"a value of the axis {name}")
        found.append(_Override({n: f.plain() for n, f in when.items()}, flat(table)))
    return found


def _cells(
    settings: Settings, axes: Axes, overrides: Sequence[_Override]
) -> Iterator[tuple[dict[str, str], Settings]]:
    """Labels and settings of every place of a grid; the first axis changes slowest."""
    for values in product(*axes.values()):
        place = dict(zip(axes, values, strict=True))
        cell = {**settings, **place}
        for override in overrides:
            if all(place[name].plain() == value for name, value in override.when.items()):
                cell.update(override.settings)
        yield {name: _label(field) for name, field in place.items()}, cell


def _label(at: Field) -> str:
    value = at.plain()
    listed = value if isinstance(value, list) else [value]
    named = [one.get("name", one) if isinstance(one, dict) else one for one in listed]
    return " + ".join(map(str, named)) or "none"


def _texts(at: Field) -> list[str]:
    return [one.text() for one in at.listed("texts")]


def _options(at: Field) -> LoadOptions:
    known = {field.name: field.default for field in fields(LoadOptions)}
    values: dict[str, Any] = {}
    for name, field in at.table(tuple(known)).items():
        kind = bool if isinstance(known[name], bool) else str
        if not isinstance(field.value, kind):
            raise field.wrong("true or false" if kind is bool else "text")
        values[name] = field.value
    try:
        return LoadOptions(**values)
    except RequestError as error:
        raise SpecError(f"{at.where}: {error}") from None
