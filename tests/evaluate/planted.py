"""Records of evaluations that never ran, with figures that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from compose.evaluate.records import Record, append_records

NAMES = ("bolt", "domino", "ember", "juniper", "mochi")
PAIRS = tuple(combinations(NAMES, 2))  # ten
TRIPLES = tuple(combinations(NAMES, 3))  # ten
CONTROLS = frozenset({"alone", "prompt_only", "merge_mean", "random", "shuffled", "rendered"})
ROWS = {"regional": 0.6, "merge": 0.1, "switch": 0.2, "alone": 0.9, "random": 0.05}
COST = {"regional": 40.0, "merge": 40.0, "switch": 40.0, "alone": 80.0, "random": 40.0}

Measure = Callable[[str, np.random.Generator], Mapping[str, float | None]]


def judged(
    row: str, rng: np.random.Generator, rows: Mapping[str, float]
) -> dict[str, float | None]:
    """Measures with a given share of right pictures."""
    right = float(rng.random() < rows[row])
    return {
        "all_primary": right,
        "primary": (right + 1) / 2,
        "bleed": 1 - right if row != "alone" else None,
        "background_damage": float(rng.uniform(0.02, 0.08)),
        "primary/mochi": right,
    }


def record(
    row: str,
    case: str,
    seed: int,
    measures: Mapping[str, float | None],
    *,
    adapters: Sequence[str] = ("ember", "mochi"),
    prompt: str = "two cats",
    suite: str = "characters",
    cost: Mapping[str, float] | None = None,
) -> Record:
    """One record; its picture is named after row, case and seed."""
    name = f"{row}/{case.replace('/', '_')}-{seed}.png"
    spent = {} if cost is None else cost
    return Record(
        suite, case, row, row in CONTROLS, seed, tuple(adapters), prompt, name, measures, spent
    )


def records(
    rows: Mapping[str, float] = ROWS,
    *,
    groups: Mapping[str, Sequence[tuple[str, ...]]] | None = None,
    seeds: int = 4,
    salt: int = 0,
) -> list[Record]:
    """A whole suite: every row, every combination of every group, every seed."""
    out = []
    for row in rows:
        for group, combos in (groups or {"pairs": PAIRS}).items():
            for number, adapters in enumerate(combos):
                for seed in range(seeds):
                    rng = np.random.default_rng([salt, len(row), number, seed, len(group)])
                    case = f"{group}/{'+'.join(adapters)}/{seed // 2}"
                    cost = {"rows": COST.get(row, 40.0), "seconds": 1.5, "memory": 2.0**30}
                    out.append(
                        record(
                            row,
                            case,
                            seed,
                            judged(row, rng, rows),
                            adapters=adapters,
                            prompt=f"{' and '.join(adapters)} & <friends> {seed // 2}",
                            cost=cost,
                        )
                    )
    return out


def write(folder: Path, made: Sequence[Record], *, pictures: bool = True) -> Path:
    """A folder as the suite runner leaves it."""
    append_records(folder, made)
    for one in made if pictures else ():
        path = folder / one.image
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = 40 + 200 * int(one.measures.get("all_primary") or 0)
        Image.new("RGB", (32, 32), (shade, 90, 120)).save(path)
    return folder
