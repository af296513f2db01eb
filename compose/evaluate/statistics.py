"""Shares with their uncertainty, and the report they are written to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compose.errors import RequestError

_Z = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson, 1927), honest also near 0 and 1 and for few
    trials.

    Args:
        right: trials that came out right, 0 to total.
        total: trials; 0 gives (0, 1), since nothing is known.

    Raises:
        RequestError: when right is not between 0 and total.
    """
    if not 0 <= right <= total:
        raise RequestError(f"{right} of {total} cannot be a share; expected 0 <= right <= total")
    if total == 0:
        return 0.0, 1.0
    share, weight = right / total, _Z * _Z / total
    middle = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Figure:
    """A share of right outcomes.

    Attributes:
        name: what was counted, "two objects / all right".
        right, total: counts.
    """

    name: str
    right: int
    total: int

    @classmethod
    def of(cls, name: str, outcomes: Iterable[bool]) -> Figure:
        """Count outcomes."""
        values = list(outcomes)
        return cls(name, sum(values), len(values))

    @property
    def share(self) -> float:
        """Right by total, 0 when there was no trial."""
        return self.right / self.total if self.total else 0.0

    @property
    def row(self) -> str:
        """A markdown table row: name, share, interval, number."""
        low, high = wilson(self.right, self.total)
        return f"| {self.name} | {self.share:.3f} | {low:.3f} to {high:.3f} | {self.total} |"


@dataclass(frozen=True)
class Report:
    """What one measure found.

    Attributes:
        measure: its name; also the stem of the files.
        figures: shares.
        values: plain numbers that are no shares ("seconds an image").
        settings: what it was measured with.
    """

    measure: str
    figures: tuple[Figure, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    def markdown(self) -> str:
        """Tables of the figures and values."""
        lines = ["| " + self.measure + " | share right | 95 % interval | n |", "|---|---|---|---|"]
        lines = lines + [figure.row for figure in self.figures] if self.figures else []
        if self.values:
            lines += ["", f"| {self.measure} | value |", "|---|---|"]
            lines += [f"| {name} | {value:.4g} |" for name, value in self.values.items()]
        return "\n".join(lines).strip() + "\n"

    def write(self, folder: Path) -> None:
        """Write ``MEASURE.json`` and ``MEASURE.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        figures = [
            {**asdict(f), "share": f.share, "interval": list(wilson(f.right, f.total))}
            for f in self.figures
        ]
        content = {
            "measure": self.measure,
            "settings": dict(self.settings),
            "figures": figures,
            "values": dict(self.values),
        }
        (folder / f"{self.measure}.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / f"{self.measure}.md").write_text(self.markdown())
