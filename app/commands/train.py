"""``train``: adapters of one's own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click

from compose.errors import MissingExtraError

from ..console import Screen, hush
from .generate import DEVICES


@click.group(short_help="Train adapters.")
def train() -> None:
    """Train adapters."""


@train.command(short_help="Train a LoRA from a concept file.")
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG.yaml")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The adapter's file, or a folder. [default: out/<name>.safetensors]",
)
@click.option("--steps", type=int, metavar="N", help="Optimiser steps. [default: the file's]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting that wins over the file's, such as tara=true. Repeatable.",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    metavar="embedded|DIR|HUB_ID",
    help="Base model, as for generate.",
)
@click.option("--offline", is_flag=True, help="Fetch nothing; hub models come from the cache.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
@click.option("--quiet", is_flag=True, help="No progress and no notices.")
def lora(
    config: Path,
    out: Path | None,
    steps: int | None,
    settings: tuple[str, ...],
    device: str,
    model: str,
    offline: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the LoRA that CONFIG.yaml describes."""
    if find_spec("peft") is None:
        raise MissingExtraError(
            "training needs peft, which is not installed; expected the extra train, so run"
            " pip install 'lora-compose[train]'"
        )
    from compose.models.detect import model_folder
    from compose.train.lora import train_file
    from compose.train.loras import read_overrides

    from ..hub import local_model

    screen = Screen(quiet=quiet, as_json=as_json)
    hush()
    folder = model_folder(local_model(model, offline=offline))
    overrides = read_overrides(settings) | ({} if steps is None else {"steps": steps})
    with screen.progress("training", 1) as each:
        path = train_file(
            config,
            model=folder,
            out=out,
            device=device,
            overrides=overrides,
            progress=_without_loss(each),
        )
    screen.result(str(path))
    screen.data({"path": str(path)})


def _without_loss(each: Callable[[int, int], None]) -> Callable[[int, int, float], None]:
    return lambda done, total, loss: each(done, total)
