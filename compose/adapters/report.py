"""What became of the names of an adapter file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compose.adapters.safe import shown


@dataclass(frozen=True)
class KeyReport:
    """What became of the names of a file.

    Attributes:
        matched: sites that get factors, in the order of the model.
        unmatched: modules of the file that the model does not have.
        ignored: tensors of the file that have no meaning here.
        fused: sites that come from a module of the file which is several here, less that module:
            the file has ``len(matched) - fused`` modules that are in the model.
        lacking: component that the model has not got, to how many of `unmatched` are for it.
    """

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    ignored: tuple[str, ...]
    fused: int = 0
    lacking: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for a log."""
        modules = len(self.matched) - self.fused
        parts = [f"{modules} of {modules + len(self.unmatched)} modules matched"]
        if self.fused:
            parts[0] += f", which are {len(self.matched)} in this model"
        if self.lacking:
            parts.append(self.gaps())
        for title, names in (("not in this model", self.unmatched), ("ignored", self.ignored)):
            if names:
                more = ", ..." if len(names) > 5 else ""
                parts.append(f"{title}: {', '.join(shown(n) for n in names[:5])}{more}")
        return "; ".join(parts)

    def gaps(self) -> str:
        """Which components the model lacks that the file has modules for; empty for none."""
        listed = (f"{shown(part)} (modules for it: {n})" for part, n in self.lacking.items())
        return f"this model has no {' and no '.join(listed)}" if self.lacking else ""
