"""Factors to sites of a model: every name of a file is looked up among the model's real modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from compose.adapters.adapter import Adapter, Factors
from compose.adapters.bases import base_of_file, file_width, in_words, model_base
from compose.adapters.reading import AdapterFile, RawFactors
from compose.adapters.safe import refusal, shown
from compose.errors import AdapterMismatchError
from compose.types import Kind

_TEXT_MODEL = "text_model."  # a level of CLIP's text model that comes and goes between versions


@dataclass(frozen=True)
class ModuleShape:
    """A module that adapters can change.

    Attributes:
        kind: linear layer or convolution.
        shape: of its weight, [d_out, d_in] or [c_out, c_in, kh, kw].
    """

    kind: Kind
    shape: tuple[int, ...]


Modules = Mapping[str, Mapping[str, ModuleShape]]
"""Component name to dotted path to shape."""


@dataclass(frozen=True)
class KeyReport:
    """What became of the names of a file.

    Attributes:
        matched: sites that get factors, in the order of the model.
        unmatched: modules of the file that the model does not have.
        ignored: tensors of the file that have no meaning here.
    """

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    ignored: tuple[str, ...]

    def summary(self) -> str:
        """One line for a log."""
        total = len(self.matched) + len(self.unmatched)
        parts = [f"{len(self.matched)} of {total} modules matched"]
        for title, names in (("not in this model", self.unmatched), ("ignored", self.ignored)):
            if names:
                more = ", ..." if len(names) > 5 else ""
                parts.append(f"{title}: {', '.join(shown(n) for n in names[:5])}{more}")
        return "; ".join(parts)


def module_shapes(model: nn.Module) -> dict[str, ModuleShape]:
    """Dotted paths of the linear layers and ungrouped convolutions of a model, with their shapes.

    Args:
        model: one component, as it was loaded: without gated layers or PEFT layers in it.
    """
    found: dict[str, ModuleShape] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[path] = ModuleShape("linear", (module.out_features, module.in_features))
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            shape = (module.out_channels, module.in_channels, *module.kernel_size)
            found[path] = ModuleShape("conv", shape)
    return found


def resolve(
    file: AdapterFile, modules: Modules, *, name: str | None = None
) -> tuple[Adapter, KeyReport]:
    """Map a file's factors to the sites of a model.

    Args:
        file: what `read_adapter` gave.
        modules: component name to its `module_shapes`.
        name: what to call the adapter; None takes the name of the file.

    Returns:
        The adapter, its sites in the order of `modules`, and what became of every name.

    Raises:
        AdapterMismatchError: no module of the file is in the model, one has another shape there, or
            one could be several of them.
        AdapterFormatError: two modules of the file are the same one.
    """
    tables = _Tables(modules)
    owners: dict[tuple[str, str], RawFactors] = {}
    unmatched: list[str] = []
    for stem, raw in file.modules.items():
        place = _only(file, stem, tables.find(raw))
        if place is None:
            unmatched.append(stem)
        elif place in owners:
            given = f"{shown(owners[place].pair.stem)} and {shown(stem)} are both {'.'.join(place)}"
            raise refusal(file.path, given, "every module once", "use another file")
        else:
            owners[place] = raw
    if not owners:
        raise _nothing_matched(file, modules)
    factors: dict[str, Factors] = {}
    for component, paths in modules.items():
        for path, shape in paths.items():
            if (component, path) in owners:
                site = f"{component}.{path}"
                factors[site] = _fit(file, owners[component, path], site, shape, modules)
    facts = file.facts
    adapter = Adapter(name or file.outline.name, factors, facts.triggers, facts.category, file.path)
    return adapter, KeyReport(tuple(factors), tuple(unmatched), file.ignored)


class _Tables:
    """Every spelling of every module of a model."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules

    @cached_property
    def _dotted(self) -> dict[str, dict[str, list[str]]]:
        """Component to path, with and without the level of the text model, to real paths."""
        return {c: _spellings(paths, _dots) for c, paths in self.modules.items()}

    @cached_property
    def _flat(self) -> dict[str, dict[str, list[str]]]:
        """The same with underscores for dots."""
        return {c: _spellings(paths, _underscores) for c, paths in self.modules.items()}

    def find(self, raw: RawFactors) -> list[tuple[str, str]]:
        """All modules that a file may mean, as component and path."""
        where = raw.pair.where
        tables = self._flat if where.flat else self._dotted
        found: dict[tuple[str, str], None] = {}
        for written in where.paths:
            components, path = where.components, written
            first, _, rest = written.partition(".")
            if not components and first in tables:
                components, path = (first,), rest
            for component in components or tables:
                for real in tables.get(component, {}).get(path, ()):
                    found[component, real] = None
        return list(found)


def _dots(path: str) -> str:
    return path


def _underscores(path: str) -> str:
    return path.replace(".", "_")


def _spellings(paths: Iterable[str], write: Callable[[str], str]) -> dict[str, list[str]]:
    """Written form to real paths, also with and without the level of the text model."""
    table: dict[str, list[str]] = {}
    for path in paths:
        bare = path.removeprefix(_TEXT_MODEL)
        for form in {path, bare, _TEXT_MODEL + bare}:
            table.setdefault(write(form), []).append(path)
    return table


def _only(file: AdapterFile, stem: str, found: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The one module that a name means; None when there is none."""
    if len(found) > 1:
        places = " or ".join(".".join(place) for place in found[:4])
        raise AdapterMismatchError(
            f"{shown(file.path, 400)}: {shown(stem)} could be {places}; expected a name that is one"
            " of them; save the adapter with the component's name in front of every path"
        )
    return found[0] if found else None


def _fit(
    file: AdapterFile, raw: RawFactors, site: str, module: ModuleShape, modules: Modules
) -> Factors:
    """Bring factors into the shape of their module.

    Linear layers are often saved as 1x1 convolutions, and 1x1 convolutions as linear layers.
    """
    down, up = raw.down, raw.up.reshape(raw.up.shape[:2])
    inner, wanted = tuple(down.shape[1:]), module.shape[1:]
    if inner != wanted and _units(inner) == _units(wanted):
        down = down.reshape(down.shape[0], *wanted)
        inner = wanted
    if inner != wanted or up.shape[0] != module.shape[0]:
        raise _misfit(file, raw, site, module, modules)
    return Factors(down.contiguous(), up.contiguous())


def _units(inner: tuple[int, ...]) -> tuple[int, ...]:
    """A shape behind the rank, without unit kernels."""
    return inner[:1] if inner[1:] in ((), (1, 1)) else inner


def _misfit(
    file: AdapterFile, raw: RawFactors, site: str, module: ModuleShape, modules: Modules
) -> AdapterMismatchError:
    return AdapterMismatchError(
        f"{shown(file.path, 400)}: {shown(raw.pair.stem)} changes weights of shape"
        f" {list(raw.pair.shape)}; expected {list(module.shape)} as {site} has;"
        f" {_advice(file, modules)}"
    )


def _nothing_matched(file: AdapterFile, modules: Modules) -> AdapterMismatchError:
    first = ", ".join(shown(stem, 80) for stem in list(file.modules)[:2])
    return AdapterMismatchError(
        f"{shown(file.path, 400)}: none of its {len(file.modules)} modules (such as {first}) is in"
        f" this model; expected names of {' or '.join(modules)}; {_advice(file, modules)}"
    )


def _advice(file: AdapterFile, modules: Modules) -> str:
    """For which base the file was made, which one this is, and what to do."""
    stated = file.facts.base
    made = in_words(base_of_file(file.outline, stated) or stated, file_width(file.outline))
    here = model_base({c: {p: m.shape for p, m in paths.items()} for c, paths in modules.items()})
    if made == here:
        return f"both seem to be {here}, but of different builds: use an adapter made for this one"
    return f"it seems made for {made} and this is {here}: use an adapter or a model that fits"
