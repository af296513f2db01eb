"""From the fields of an item to a checked request; what is wrong is blamed on its own field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compose.adapters.library import AdapterLibrary
from compose.errors import RequestError
from compose.fusion import method
from compose.method import CompositionMethod
from compose.prompt import parse_prompt, refuse_tags
from compose.regions import Box, Mask, Region
from compose.request import AdapterUse, Request
from compose.types import Size
from compose_app.flags import read_lora, read_size
from compose_app.order import refuse_twice

from .fields import Field

ADAPTER_KEYS = ("name", "weight", "text_weight", "region", "mask", "trigger")
Settings = Mapping[str, Field]
"""Key of an item to its field; method fields as ``set.NAME``, weights as ``weight.NAME``."""


@dataclass
class RequestReader:
    """Reads the requests of one batch file.

    Args:
        folder: of the file; adapters and masks may be named relative to it.
    """

    folder: Path
    library: AdapterLibrary = field(default_factory=AdapterLibrary.default)
    _looked_up: set[tuple[str, ...]] = field(default_factory=set)

    def read(self, settings: Settings, prompt: str, negative: str, seed: int) -> Request:
        """The request of one picture, without its method.

        Args:
            settings: with at least a prompt.
            prompt, negative: with random parts chosen.
            seed: of the picture.

        Raises:
            SpecError: something that makes no sense, with its place.
        """
        with settings["prompt"].blamed():
            parsed = parse_prompt(prompt)
            request = Request(parsed.text, seeds=(seed,))
        uses = (*parsed.adapters, *self._adapters(settings))
        at = settings.get("adapters", settings["prompt"])
        with at.blamed():
            request = replace(request, adapters=self._weighed(uses, settings))
            self._look_up(request, at)
        for key, value in self._simple(settings, negative).items():
            with settings[key].blamed():
                if key == "negative":
                    refuse_tags(value, "the negative prompt")
                request = replace(request, **{key: value})
        return request

    def _simple(self, settings: Settings, negative: str) -> dict[str, Any]:
        """Values of the fields that need no more than their type."""
        found: dict[str, Any] = {}
        for key in ("steps", "clip_skip"):
            if key in settings:
                found[key] = settings[key].whole(1, 1000)
        for key in ("guidance", "true_cfg"):
            if key in settings:
                found[key] = settings[key].number()
        if "scheduler" in settings:
            found["scheduler"] = settings["scheduler"].text("the name of a scheduler")
        if "size" in settings:
            found["size"] = _size(settings["size"])
        if "negative" in settings:
            found["negative"] = negative
        return found

    def _adapters(self, settings: Settings) -> list[AdapterUse]:
        if "adapters" not in settings:
            return []
        at = settings["adapters"]
        return [self._adapter(one) for one in at.listed("adapters")] if at.value != [] else []

    def _adapter(self, at: Field) -> AdapterUse:
        if not isinstance(at.value, dict):
            text = at.text("NAME, NAME:WEIGHT, or a table with a name")
            with at.blamed():
                try:
                    use = read_lora(text)
                except RequestError:
                    raise at.wrong("NAME or NAME:WEIGHT, such as mochi:0.8") from None
            return self._found(use, at)
        table = at.table(ADAPTER_KEYS)
        if "name" not in table:
            raise at.wrong("a name among the adapter's keys")
        values: dict[str, Any] = {
            key: table[key].number() for key in ("weight", "text_weight") if key in table
        }
        if "trigger" in table:
            values["trigger"] = table["trigger"].text("words of the prompt")
        use = AdapterUse(
            table["name"].text("the name of an adapter"), region=self._region(table, at), **values
        )
        return self._found(use, table["name"])

    def _found(self, use: AdapterUse, at: Field) -> AdapterUse:
        beside = self.folder / use.name
        if beside.is_file():
            use = replace(use, name=str(beside))
        if (use.name,) not in self._looked_up:
            with at.blamed():
                self.library.find(use.name)
            self._looked_up.add((use.name,))
        return use

    def _region(self, table: Settings, at: Field) -> Region | None:
        if "region" in table and "mask" in table:
            raise at.wrong("a region or a mask, not both")
        if "region" in table:
            corners = table["region"].listed("four numbers")
            edges = [corner.number() for corner in corners]
            if len(edges) != 4:
                raise table["region"].wrong("x0, y0, x1, y1 as fractions of width and height")
            with table["region"].blamed():
                return Box(*edges)
        if "mask" in table:
            file = self.folder / table["mask"].text("a PNG file")
            with table["mask"].blamed():
                return Mask.read(file)
        return None

    def _weighed(self, uses: tuple[AdapterUse, ...], settings: Settings) -> tuple[AdapterUse, ...]:
        """Adapters with the weights of ``weight.NAME``."""
        for key, at in settings.items():
            if not key.startswith("weight."):
                continue
            name = key.removeprefix("weight.")
            if name not in [use.name for use in uses]:
                known = ", ".join(use.name for use in uses) or "no adapter"
                raise at.wrong(f"a weight for an adapter of this item, which has {known}")
            weight = at.number()
            uses = tuple(replace(u, weight=weight) if u.name == name else u for u in uses)
        return uses

    def _look_up(self, request: Request, at: Field) -> None:
        names = tuple(use.name for use in request.adapters)
        if len(names) > 1 and names not in self._looked_up:
            with at.blamed():
                refuse_twice(request.adapters, self.library)
            self._looked_up.add(names)


def with_method(
    request: Request, settings: Settings, kinds: Mapping[str, type[CompositionMethod]]
) -> Request:
    """The request with its method.

    Where an item compares several methods, fields and regions go to those that have a use for them.

    Args:
        request: of `RequestReader.read`.
        settings: of the same picture.
        kinds: every method of the item, by name.

    Raises:
        SpecError: a bad value, or a field or region that none of the methods has a use for.
    """
    at = settings.get("method")
    kind = kinds[at.text() if at is not None else "merge"]
    given = {k.removeprefix("set."): f for k, f in settings.items() if k.startswith("set.")}
    every = {param.name for one in kinds.values() for param in one.params()}
    for name, one in given.items():
        if name not in every:
            raise one.wrong(f"a field of {', '.join(kinds)}: {', '.join(sorted(every)) or 'none'}")
    own = {param.name for param in kind.params()}
    chosen = kind()
    for name in (name for name in given if name in own):
        with given[name].blamed():
            chosen = kind.parse({**chosen.values(), name: given[name].plain()})
    if request.regions and "regions" not in kind.needs:
        if not any("regions" in one.needs for one in kinds.values()):
            where = settings.get("method", settings["adapters"])
            raise where.wrong("a method that places adapters, such as regional, for a region")
        bare = tuple(replace(use, region=None) for use in request.adapters)
        request = replace(request, adapters=bare)
    return replace(request, method=chosen)


def find_method(at: Field | None) -> tuple[str, type[CompositionMethod]]:
    """A method by the field that names it; merge where there is none."""
    if at is None:
        return "merge", method("merge")
    name = at.text("the name of a method")
    with at.blamed():
        return name, method(name)


def _size(at: Field) -> Size | None:
    try:
        size: Size | None = read_size(at.text("WxH in pixels, such as 128x128"))
        return size
    except RequestError:
        raise at.wrong("WxH in pixels, such as 128x128, of at most 4096") from None
