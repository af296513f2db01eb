"""``replay``: a picture again, from the recipe inside it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from compose.models.options import OFFLOADS

from ..console import Screen


@click.command(short_help="Make a picture again from the recipe in it.")
@click.argument("image", type=click.Path(path_type=Path), metavar="IMAGE.png")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    metavar="DIR",
    help="Folder for the picture; nothing is overwritten.",
)
@click.option(
    "--offload",
    type=click.Choice(OFFLOADS),
    default="none",
    show_default=True,
    help="What leaves the GPU while it does not work. Changes no pixel.",
)
@click.option("--explain", is_flag=True, help="A sheet of what each adapter did, as of generate.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
@click.option("--quiet", is_flag=True, help="No progress and no notices.")
def replay(image: Path, out: Path, offload: str, explain: bool, as_json: bool, quiet: bool) -> None:
    """Make IMAGE.png again from the recipe that it carries, and say whether it is identical.

    Nothing is downloaded: a model from the hub has to be in the cache.
    """
    start = time.perf_counter()
    screen = Screen(quiet=quiet, as_json=as_json)
    from ..files import output_folder
    from ..metadata import read_recipe

    recipe = read_recipe(image)
    with output_folder(out) as folder:
        from ..replaying import rebuild

        rebuild(recipe, folder, screen, start=start, offload=offload, explain=explain)
