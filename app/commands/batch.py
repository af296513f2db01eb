"""``batch``: many pictures from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..console import Screen

EXECUTORS = ("inline", "processes", "ray")


@click.command(short_help="Make many pictures from a file.")
@click.argument("spec", type=click.Path(path_type=Path), metavar="SPEC.yaml")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the pictures, the manifest and the contact sheets.",
)
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="processes",
    show_default=True,
    help="Where to work: here, in one process a device, or on a Ray cluster; bytes are the same.",
)
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="How many processes or Ray actors. [default: one a GPU, or one a core]",
)
@click.option("--resume", is_flag=True, help="Go on with the batch that lies in DIR.")
@click.option(
    "--address",
    metavar="ADDR",
    help="A running Ray cluster, such as 10.0.0.1:6379. [default: one on this machine]",
)
@click.option("--offline", is_flag=True, help="Fetch nothing; hub models come from the cache.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
@click.option("--quiet", is_flag=True, help="No progress and no notices.")
def batch(spec: Path, **flags: Any) -> None:
    """Make the pictures of SPEC.yaml: grids, prompt matrices, wildcards, overrides.

    Seeds and pictures depend on the file alone. Every picture carries its recipe for the replay
    command, and DIR/manifest.jsonl says what happened. A batch that was cut off goes on with
    --resume.
    """
    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    executor = flags["executor"]
    if flags["address"] is not None and executor != "ray":
        raise click.UsageError("--address was given; expected --executor ray beside it")
    if flags["workers"] is not None and executor == "inline":
        raise click.UsageError("--workers was given, but --executor inline works alone; drop one")
    from compose_workflows.batching import make_batch
    from compose_workflows.spec import read_batch

    from ..files import output_folder

    read = read_batch(spec)
    chosen = {name: flags[name] for name in ("workers", "address", "resume", "offline")}
    with output_folder(flags["out"]) as folder:
        make_batch(read, folder, screen, executor=executor, **chosen)
