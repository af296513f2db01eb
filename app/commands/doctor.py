"""``doctor``: what works here."""

from __future__ import annotations

import click

from ..console import Screen


@click.command(short_help="Say what is installed and what works here.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON.")
def doctor(as_json: bool) -> None:
    """Say what is installed, which kernels and attention back ends work, and why others do not."""
    from ..doctor import examine, in_words

    screen = Screen(as_json=as_json)
    found = examine()
    screen.data(found)
    for line in in_words(found):
        screen.result(line)
