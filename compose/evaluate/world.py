"""The figures of the embedded world: ``python -m compose.evaluate.world all --out DIR``.

Every measure writes ``MEASURE.json``, ``MEASURE.md`` (table rows with 95 % intervals) and, where
there are pictures, ``MEASURE.png`` with the wrongly made or wrongly judged ones framed in red.
Pictures come from the stock diffusers pipeline, so nothing here depends on our own engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

import compose.world
from compose.device import pick_device
from compose.errors import ComposeError
from compose.evaluate.bench import Bench
from compose.evaluate.generate import SCHEDULERS, Sampling
from compose.evaluate.sheets import Cell, save_sheet
from compose.evaluate.statistics import Report
from compose.evaluate.world_base import measure_base, measure_recognizer, measure_speed
from compose.evaluate.world_concepts import measure_concepts, measure_merge
from compose.world.reading import load_recognizer

Measure = Callable[[Bench], tuple[Report, list[Cell]]]
MEASURES: Mapping[str, tuple[Measure, int]] = MappingProxyType(
    {
        "recognizer": (measure_recognizer, 1000),
        "base": (measure_base, 256),
        "concepts": (measure_concepts, 64),
        "merge": (measure_merge, 64),
        "speed": (measure_speed, 0),
    }
)
"""Name to what measures it and to its usual number of pictures a row."""


def parser() -> argparse.ArgumentParser:
    """Options of the program."""
    world = Path(compose.world.__file__).parent
    usual = Sampling()
    options = argparse.ArgumentParser(prog="python -m compose.evaluate.world", description=__doc__)
    options.add_argument("measure", nargs="+", choices=[*MEASURES, "all"], help="what to measure")
    options.add_argument("--out", type=Path, required=True, help="folder of the results")
    options.add_argument("--n", type=int, help="pictures a row of figures")
    options.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options.add_argument(
        "--model", type=Path, default=world / "weights", help="folder of the base pipeline"
    )
    options.add_argument(
        "--adapters", type=Path, default=world / "adapters", help="folder of the adapters"
    )
    options.add_argument(
        "--recognizer", type=Path, help="file or folder; the shipped one when not given"
    )
    options.add_argument("--steps", type=int, default=usual.steps)
    options.add_argument("--guidance", type=float, default=usual.guidance)
    options.add_argument("--scheduler", choices=SCHEDULERS, default=usual.scheduler)
    options.add_argument("--batch", type=int, default=usual.batch, help="prompts at once")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these concepts alone"
    )
    return options


def run(args: argparse.Namespace) -> list[Report]:
    """Measure what was asked and write it.

    Args:
        args: as of `parser`.

    Raises:
        ComposeError: when a model, adapter or device is missing.
    """
    torch.set_float32_matmul_precision("high")
    device = pick_device(args.device)
    recognizer = load_recognizer(args.recognizer).to(device)
    sampling = Sampling(args.steps, args.guidance, args.scheduler, args.batch)
    reports = []
    for name in MEASURES if "all" in args.measure else args.measure:
        measure, usual = MEASURES[name]
        bench = Bench(
            recognizer,
            device,
            args.model,
            args.adapters,
            args.n or usual,
            args.seed,
            sampling,
            tuple(args.only),
        )
        report, cells = measure(bench)
        report.write(args.out)
        if cells:
            save_sheet(cells, args.out / f"{name}.png", columns=16)
        sys.stdout.write(report.markdown() + "\n")
        sys.stdout.flush()
        reports.append(report)
    return reports


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 2 and one line of words when it cannot be done."""
    try:
        run(parser().parse_args(arguments))
    except ComposeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
