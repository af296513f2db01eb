"""``generate``: one prompt to pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from compose.models.backends import BACKENDS
from compose.models.options import OFFLOADS, QUANTIZATIONS, LoadOptions

from ..console import Screen

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "fp32", "bf16", "fp16")


@click.command(short_help="Make pictures from a prompt and adapters.")
@click.argument("prompt")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="NAME|FILE[:WEIGHT[:TE_WEIGHT]]",
    help="An adapter, with its weight in the denoiser and in the text encoder. Repeatable.",
)
@click.option(
    "--method",
    metavar="NAME[*NAME]",
    help="How adapters are combined; * takes several methods at once. [default: merge]",
)
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A field of the method, or of a part: tara.words=class. See the methods command."
    " Repeatable.",
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    metavar="NAME=x0,y0,x1,y1",
    help="Where an adapter acts, in fractions of width and height from the top left. Repeatable.",
)
@click.option(
    "--mask",
    "masks",
    multiple=True,
    metavar="NAME=FILE.png",
    help="Where an adapter acts, as a black and white picture. Repeatable.",
)
@click.option(
    "--bind",
    "binds",
    multiple=True,
    metavar="NAME=WORDS",
    help="Words of the prompt that call an adapter, in place of its own triggers. Repeatable.",
)
@click.option(
    "--grid",
    metavar="METHODS|all",
    help="Compare: the base, every adapter alone, and each method, all in one picture as well.",
)
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    metavar="embedded|DIR|FILE|HUB_ID",
    help="Base model: the one that ships, a folder in diffusers layout, a .safetensors checkpoint,"
    " or a hub id.",
)
@click.option(
    "--model-config",
    "config",
    metavar="DIR|HUB_ID",
    help="Settings for a checkpoint of one file: a diffusers folder of the same family.",
)
@click.option(
    "--denoiser",
    metavar="FILE",
    help="Other weights for the denoiser: a .safetensors or .gguf file.",
)
@click.option("--negative", default="", metavar="TEXT", help="What the picture should not show.")
@click.option("--size", metavar="WxH", help="In pixels. [default: what the model was trained at]")
@click.option(
    "--steps", default=20, show_default=True, metavar="N", help="Denoising steps.", type=int
)
@click.option("--guidance", type=float, metavar="G", help="Guidance scale. [default: the model's]")
@click.option(
    "--true-cfg",
    type=float,
    metavar="G",
    help="Classifier-free guidance for models whose guidance is distilled (FLUX). [default: none]",
)
@click.option(
    "--clip-skip",
    type=int,
    metavar="N",
    help="CLIP layer to read, from the end: 1 the last, 2 the one before. [default: the model's]",
)
@click.option("--seed", type=int, metavar="S", help="Seed of the noise. [default: a fresh one]")
@click.option(
    "--count",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="How many pictures, with seeds S, S+1 and so on.",
)
@click.option(
    "--scheduler",
    metavar="NAME",
    help="What solves the steps. sd15, sdxl: ddim, euler, dpm++; sd3: euler, heun; flux: euler."
    " [default: the model's]",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True)
@click.option(
    "--quantize",
    type=click.Choice(QUANTIZATIONS),
    default="none",
    show_default=True,
    help="What the large layers of the model are stored as. Adapters stay as they are.",
)
@click.option(
    "--offload",
    type=click.Choice(OFFLOADS),
    default="none",
    show_default=True,
    help="What leaves the GPU while it does not work. Changes no pixel.",
)
@click.option(
    "--attention-backend",
    type=click.Choice(list(BACKENDS)),
    help="What computes attention, see the doctor command. [default: the model's]",
)
@click.option("--vae-tiling", is_flag=True, help="Decode large pictures in tiles, to save memory.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    metavar="DIR",
    help="Folder for the pictures: <seed>-<method>-<hash>.png, nothing is overwritten.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Beside every picture, a sheet of what each adapter did; figures with --json. The picture"
    " stays the same, and takes longer.",
)
@click.option("--offline", is_flag=True, help="Fetch nothing; hub models come from the cache.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
@click.option("--quiet", is_flag=True, help="No progress and no notices.")
def generate(prompt: str, **flags: Any) -> None:
    """Make pictures from PROMPT with any number of adapters.

    Adapters are given with --lora or inside the prompt as <lora:NAME:WEIGHT>. Every picture carries
    the recipe that the replay command needs to make it again.
    """
    start = time.perf_counter()
    screen = Screen(quiet=flags["quiet"], as_json=flags["as_json"])
    from ..files import output_folder
    from ..flags import read_fields, read_seeds
    from ..order import Setting, grid_columns, one_column, read_request

    seeds = read_seeds(flags["seed"], flags["count"])
    names = (
        *("negative", "loras", "size", "steps", "guidance", "true_cfg", "clip_skip", "scheduler"),
        *("regions", "masks", "binds"),
    )
    request = read_request(prompt, seeds=seeds, **{name: flags[name] for name in names})
    fields = read_fields(flags["fields"])
    grid = flags["grid"]
    if grid is not None and flags["method"] is not None:
        raise click.UsageError("--grid and --method were both given; expected one of them")
    if grid is not None and flags["explain"]:
        raise click.UsageError(
            "--grid and --explain were both given; expected one of them, so explain one --method"
        )
    if flags["explain"] and not request.adapters:
        raise click.UsageError("--explain was given without adapters; expected some, so add --lora")
    if grid is None:
        columns = one_column(request, flags["method"] or "merge", fields)
    else:
        columns = grid_columns(request, grid, fields)
    chosen = ("config", "denoiser", "quantize", "offload", "vae_tiling", "attention_backend")
    options = LoadOptions(**{name: flags[name] for name in chosen})
    setting = Setting(flags["model"], flags["device"], flags["dtype"], flags["offline"], options)
    with output_folder(flags["out"]) as folder:
        from ..making import make

        notes = [f"seed {seeds[0]}"] if flags["seed"] is None else []
        how = {"notes": notes, "grid": grid is not None, "explain": flags["explain"]}
        make(columns, setting, folder, screen, start=start, **how)
