"""What a name of a model's first release means among the modules of the diffusers model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Sizes = Mapping[str, int]
"""Dotted path of a module to the number of its outputs, for the modules of one component."""


@dataclass(frozen=True)
class Part:
    """A module, and which outputs of the file's factor are its own.

    Attributes:
        path: of the module, inside its component.
        rows: ranges of rows [start, stop) of the file's second factor, in the order in which the
            module has them.
    """

    path: str
    rows: tuple[tuple[int, int], ...]


Parts = tuple[Part, ...]
"""The modules that one name of a file stands for. Their rows together are all rows of the file."""

Names = dict[str, Parts]
"""Original dotted name to what it means."""


def whole(sizes: Sizes, path: str) -> Parts:
    """One module, as it is."""
    return (Part(path, ((0, sizes[path]),)),)


def swapped(sizes: Sizes, path: str) -> Parts:
    """One module whose halves lie the other way round.

    The modulation before an output gives shift and scale in the first releases of SD3 and FLUX,
    scale and shift in diffusers' AdaLayerNormContinuous.
    """
    size = sizes[path]
    return (Part(path, ((size // 2, size), (0, size // 2))),)


def fused(sizes: Sizes, paths: Sequence[str]) -> Parts:
    """Modules that were one, in the order of its rows."""
    parts = []
    start = 0
    for path in paths:
        parts.append(Part(path, ((start, start + sizes[path]),)))
        start += sizes[path]
    return tuple(parts)


def translate(sizes: Sizes, table: Mapping[str, Sequence[str]], old: str, new: str) -> Names:
    """The names of one block.

    Args:
        sizes: modules of the component.
        table: original path inside the block to the paths of the modules that it holds.
        old: what stands before the original path, with its dot.
        new: what stands before the modules' paths, with its dot.

    Returns:
        Names for what the model has. The modules that a fused one holds also have names of their
        own, its name with their number: OneTrainer writes them so.
    """
    names: Names = {}
    for original, leaves in table.items():
        paths = [new + leaf for leaf in leaves]
        if any(path not in sizes for path in paths):
            continue
        names[old + original] = fused(sizes, paths)
        if len(paths) > 1:
            for number, path in enumerate(paths):
                names[f"{old}{original}.{number}"] = whole(sizes, path)
    return names


def numbers(paths: Iterable[str], start: str) -> list[int]:
    """Which numbers come after a start such as ``down_blocks.``, in order."""
    found = {
        part
        for path in paths
        if path.startswith(start) and (part := path[len(start) :].partition(".")[0]).isdecimal()
    }
    return sorted(int(part) for part in found)
