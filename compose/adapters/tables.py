"""Every spelling of every module of a model, among which the names of files are looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from compose.adapters.keys import Address, component
from compose.adapters.originals import Parts, architecture, flux, original_names, whole
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


@dataclass(frozen=True)
class Target:
    """What one name of a file means: the modules of one component that share its factors."""

    component: str
    parts: Parts

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, ``component.path``."""
        return tuple(f"{self.component}.{part.path}" for part in self.parts)

    @property
    def rows(self) -> int:
        """Number of outputs that the file's module must have."""
        return sum(stop - start for part in self.parts for start, stop in part.rows)


_Spellings = Mapping[str, list[Parts]]
"""Written form to what it can mean."""


class Tables:
    """Looks names of files up among the modules of a model."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self._sizes = {
            c: {path: module.shape[0] for path, module in paths.items()}
            for c, paths in modules.items()
        }
        is_flux = any(architecture(sizes) == "flux" for sizes in self._sizes.values())
        self._other_names = flux.TEXT_ENCODERS if is_flux else {}

    def find(self, where: Address) -> list[Target]:
        """All modules that a file may mean; under their names in the model, else original ones."""
        if where.flat:
            return self._look_up(where, self._flat) or self._look_up(where, self._flat_originals)
        return self._look_up(where, self._dotted) or self._look_up(where, self._dotted_originals)

    def lacks(self, where: Address) -> str | None:
        """The component that an address is for, where the model has not got it; else None."""
        named = where.components or tuple(filter(None, (component(where),)))
        named = tuple(self._other_names.get(name, name) for name in named)
        return named[0] if named and not any(name in self.modules for name in named) else None

    def _look_up(self, where: Address, tables: Mapping[str, _Spellings]) -> list[Target]:
        found: dict[Target, None] = {}
        for written in where.paths:
            components, path = where.components, written
            first, _, rest = written.partition(".")
            if not components and first in self.modules:
                components, path = (first,), rest
            for name in components or self.modules:
                name = self._other_names.get(name, name)
                for parts in tables.get(name, {}).get(path, ()):
                    found[Target(name, parts)] = None
        return list(found)

    @cached_property
    def _dotted(self) -> dict[str, _Spellings]:
        return {c: _spellings(_own_names(sizes), _dots) for c, sizes in self._sizes.items()}

    @cached_property
    def _flat(self) -> dict[str, _Spellings]:
        return {c: _spellings(_own_names(sizes), _underscores) for c, sizes in self._sizes.items()}

    @cached_property
    def _originals(self) -> dict[str, Iterable[tuple[str, Parts]]]:
        return {c: original_names(sizes).items() for c, sizes in self._sizes.items()}

    @cached_property
    def _dotted_originals(self) -> dict[str, _Spellings]:
        return {c: _spellings(names, _dots) for c, names in self._originals.items()}

    @cached_property
    def _flat_originals(self) -> dict[str, _Spellings]:
        return {c: _spellings(names, _underscores) for c, names in self._originals.items()}


def _dots(path: str) -> str:
    return path


def _underscores(path: str) -> str:
    return path.replace(".", "_")


def _own_names(sizes: Mapping[str, int]) -> Iterable[tuple[str, Parts]]:
    """The paths of modules, also with and without the level of the text model."""
    for path in sizes:
        bare = path.removeprefix(_TEXT_MODEL)
        for form in {path, bare, _TEXT_MODEL + bare}:
            yield form, whole(sizes, path)


def _spellings(names: Iterable[tuple[str, Parts]], write: Callable[[str], str]) -> _Spellings:
    table: dict[str, list[Parts]] = {}
    for name, parts in names:
        table.setdefault(write(name), []).append(parts)
    return table
