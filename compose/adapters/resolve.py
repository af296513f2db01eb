"""Factors to sites of a model: every name of a file is looked up among the model's real modules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch

from compose.adapters.adapter import Adapter, Factors
from compose.adapters.mismatch import ambiguous, check_base, misfit, nothing_matched
from compose.adapters.originals import Part
from compose.adapters.reading import AdapterFile, RawFactors
from compose.adapters.report import KeyReport
from compose.adapters.safe import refusal, shown
from compose.adapters.tables import Modules, ModuleShape, Tables, Target, module_shapes

__all__ = ["KeyReport", "ModuleShape", "Modules", "module_shapes", "resolve"]


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
        AdapterMismatchError: the file is for another base, no module of it is in the model, one has
            another shape there, or one could be several of them.
        AdapterFormatError: two modules of the file are the same one.
    """
    check_base(file, modules)
    found = _look_up(file, modules)
    if not found.owners:
        raise nothing_matched(file, modules)
    factors: dict[str, Factors] = {}
    for component, paths in modules.items():
        for path in paths:
            if (component, path) in found.owners:
                factors[f"{component}.{path}"] = _fit(file, *found.owners[component, path], modules)
    facts = file.facts
    adapter = Adapter(
        name or file.outline.name,
        factors,
        facts.triggers,
        facts.category,
        file.path,
        facts.class_word,
    )
    report = KeyReport(
        tuple(factors), tuple(found.unmatched), file.ignored, found.fused, dict(found.lacking)
    )
    return adapter, report


@dataclass
class _Found:
    """Which module of the file each module of the model takes, and what is left over."""

    owners: dict[tuple[str, str], tuple[RawFactors, Target, Part]] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    lacking: Counter[str] = field(default_factory=Counter)
    fused: int = 0


def _look_up(file: AdapterFile, modules: Modules) -> _Found:
    tables = Tables(modules)
    found = _Found()
    for stem, raw in file.modules.items():
        where = raw.pair.where
        targets = tables.find(where)
        if len(targets) > 1:
            raise ambiguous(file, stem, targets)
        if not targets:
            found.unmatched.append(stem)
            found.lacking.update(filter(None, (tables.lacks(where),)))
            continue
        (target,) = targets
        found.fused += len(target.parts) - 1
        for part, site in zip(target.parts, target.sites, strict=True):
            place = target.component, part.path
            if place in found.owners:
                first = found.owners[place][0].pair.stem
                given = f"{shown(first)} and {shown(stem)} are both {site}"
                raise refusal(file.path, given, "every module once", "use another file")
            found.owners[place] = raw, target, part
    return found


def _fit(
    file: AdapterFile, raw: RawFactors, target: Target, part: Part, modules: Modules
) -> Factors:
    """Bring factors into the shape of a module.

    Linear layers are often saved as 1x1 convolutions, and 1x1 convolutions as linear layers. Of a
    module that is several here each takes its rows of the second factor, and the whole first one.
    """
    down, up = raw.down, raw.up.reshape(raw.up.shape[:2])
    inner, wanted = tuple(down.shape[1:]), modules[target.component][part.path].shape[1:]
    if inner != wanted and _units(inner) == _units(wanted):
        down = down.reshape(down.shape[0], *wanted)
        inner = wanted
    if inner != wanted or up.shape[0] != target.rows:
        raise misfit(file, raw, target, modules)
    if part.rows != ((0, target.rows),):
        up = torch.cat([up[start:stop] for start, stop in part.rows])
        down = down.clone()  # no two sites share memory
    return Factors(down.contiguous(), up.contiguous())


def _units(inner: tuple[int, ...]) -> tuple[int, ...]:
    """A shape behind the rank, without unit kernels."""
    return inner[:1] if inner[1:] in ((), (1, 1)) else inner
