"""``evaluate``: how well composition methods do on a suite of questions with known answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ..console import Screen
from .generate import DEVICES


@click.command(short_help="Measure composition methods on a suite.")
@click.argument("suite", metavar="SUITE")
@click.option(
    "--methods",
    metavar="A,B,C",
    help="Composition methods. [default: all that a suite gives all they need]",
)
@click.option(
    "--seeds", type=int, metavar="N", help="Seeds of each combination. [default: the suite's]"
)
@click.option("--steps", type=int, metavar="N", help="Denoising steps. [default: the suite's]")
@click.option(
    "--budget",
    metavar="TIME",
    help="Stop in good time: 90s, 10m, 1h. What is done then is a fair sample, with every row.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the pictures, records and report. An evaluation that lies there goes on.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="REPORT.json",
    help="An older report of the same suite to compare with.",
)
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    metavar="embedded|DIR",
    help="Base model: the one that ships, or another training of it.",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--executor",
    type=click.Choice(("auto", "inline", "processes")),
    default="auto",
    show_default=True,
    help="Where to work: here or in processes, which is what a CPU gets. Results are the same.",
)
@click.option(
    "--workers", type=int, metavar="N", help="How many processes. [default: one a core, at most 8]"
)
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
@click.option("--quiet", is_flag=True, help="No progress and no notices.")
def evaluate(suite: str, **flags: Any) -> None:
    """Measure composition methods on SUITE, the name of one that ships or a YAML file.

    Every method is asked the same questions with the same seeds, beside controls: each adapter
    alone, the bare model, merges at matched strength, random and shuffled adapters, true pictures.
    """
    start = time.monotonic()
    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    from ..evaluating import Order, carry_out
    from ..files import output_folder
    from ..flags import read_duration

    names = flags["methods"]
    budget = read_duration(flags["budget"])
    order = Order.read(
        suite,
        methods=None if names is None else [n.strip() for n in names.split(",") if n.strip()],
        executor=flags["executor"],
        **{name: flags[name] for name in ("seeds", "steps", "model", "device", "workers")},
    )
    until = None if budget is None else start + budget
    with output_folder(flags["out"]) as folder:
        result = carry_out(order, folder, screen, until=until, compare=flags["compare"])
    screen.result(str(result["report"]))
    for line in result.get("comparison", {}).get("summary", ()):
        screen.result(line)
    screen.data(result)
