"""The command line, ``lora-compose``."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

import click

from .console import guarded
from .identity import DISTRIBUTION

COMMANDS = {
    "generate": "generate",
    "replay": "replay",
    "batch": "batch",
    "methods": "methods",
    "adapters": "adapters",
    "models": "models",
    "train": "train",
    "evaluate": "evaluate",
    "app": "app",
    "doctor": "doctor",
}
"""Command to its module in `commands`, in the order in which help lists them."""


class Program(click.Group):
    """A group that imports a command when it is asked for, and that ends with its exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in a reader's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".commands.{COMMANDS[cmd_name]}", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what click would make of these two, `guarded` does better."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Passing(error) from None

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the program and leave with its exit status."""
        run = super().main

        def work() -> Any:
            try:
                return run(*args, **{**kwargs, "standalone_mode": False})
            except _Passing as carrier:
                raise carrier.error from None

        sys.exit(guarded(work))


class _Passing(Exception):
    """Carries an error past click."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@click.group(
    cls=Program,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version(DISTRIBUTION), prog_name=DISTRIBUTION)
def main() -> None:
    """Several LoRAs in one image, and each of them survives."""


if __name__ == "__main__":
    main()
