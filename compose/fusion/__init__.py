"""Composition methods, one file each.

A new method is a new file in this folder, or a class that another distribution names in the entry
point group ``lora_compose.methods``. Nothing else has to be edited.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from compose.errors import UnknownMethodError, nearest
from compose.method import CompositionMethod
from compose.product import SIGN, product


@functools.cache
def methods() -> Mapping[str, type[CompositionMethod]]:
    """Every method there is, by name: first `merge`, the default, then by name."""
    found: dict[str, type[CompositionMethod]] = {}
    for module in pkgutil.iter_modules(__path__):
        for _, thing in inspect.getmembers(
            importlib.import_module(f"{__name__}.{module.name}"), inspect.isclass
        ):
            if (
                issubclass(thing, CompositionMethod)
                and not inspect.isabstract(thing)
                and hasattr(thing, "name")
            ):
                found[thing.name] = thing
    for point in entry_points(group="lora_compose.methods"):
        outside: type[CompositionMethod] = point.load()
        found[outside.name] = outside
    return MappingProxyType({n: found[n] for n in sorted(found, key=lambda n: (n != "merge", n))})


def method(name: str) -> type[CompositionMethod]:
    """A method by name, or a product of several, such as "tara*regional".

    Raises:
        UnknownMethodError: there is none of that name.
        RequestError: a product that makes no sense; see `compose.product.product`.
    """
    kinds = [_named(part) for part in name.split(SIGN)]
    return kinds[0] if len(kinds) == 1 else product(*kinds)


def _named(name: str) -> type[CompositionMethod]:
    known = methods()
    if name not in known:
        raise UnknownMethodError(f"unknown method {name!r}; {nearest(name, known)}")
    return known[name]
