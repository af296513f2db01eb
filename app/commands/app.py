"""``app``: the same in a browser."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from compose.errors import MissingExtraError, RequestError

from ..console import Screen
from .generate import DEVICES, DTYPES

_PASSWORDS = "LORA_COMPOSE_AUTH"
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


@click.command(short_help="Compose in a browser.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--auth",
    multiple=True,
    metavar="NAME:PASSWORD",
    help=f"Who may come in. Repeatable; ${_PASSWORDS} with commas between keeps them out of sight.",
)
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    metavar="embedded|DIR|FILE|HUB_ID",
    help="Base model, as for generate.",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    metavar="DIR",
    help="Folder for the pictures, which everybody who may come in can see.",
)
@click.option("--offline", is_flag=True, help="Fetch nothing; hub models come from the cache.")
@click.option("--quiet", is_flag=True, help="No notices.")
def app(
    host: str,
    port: int,
    auth: tuple[str, ...],
    model: str,
    device: str,
    dtype: str,
    out: Path,
    offline: bool,
    quiet: bool,
) -> None:
    """Make, compare and recall pictures in a browser.

    It answers on this machine only, unless --host says otherwise; then --auth is needed too.
    Nothing is sent to anybody.
    """
    if find_spec("gradio") is None:
        raise MissingExtraError(
            "the app needs gradio, which is not installed; expected the extra app, so run"
            " pip install 'lora-compose[app]'"
        )
    users = read_users([*auth, *filter(None, os.environ.get(_PASSWORDS, "").split(","))])
    if not users and host not in ("127.0.0.1", "localhost", "::1"):
        raise RequestError(
            f"--host {host} lets other machines in without a password; expected --auth"
            " NAME:PASSWORD with it"
        )
    from ..files import output_folder
    from ..order import Setting

    with output_folder(out) as folder, tempfile.TemporaryDirectory("-lora-compose") as uploads:
        os.environ.update(_QUIET, GRADIO_TEMP_DIR=uploads)  # read when gradio is imported
        from ..ui.running import run_app

        setting = Setting(model, device, dtype, offline)
        screen = Screen(quiet=quiet)
        run_app(setting, folder, screen, host=host, port=port, users=users)


def read_users(texts: list[str]) -> list[tuple[str, str]]:
    """``NAME:PASSWORD`` each.

    Raises:
        RequestError: one without a name or a password.
    """
    users = []
    for text in texts:
        name, colon, password = text.partition(":")
        if not (colon and name and password):
            raise RequestError(
                "--auth was given without a name or a password; expected NAME:PASSWORD"
            )
        users.append((name, password))
    return users
