"""The line under the button: how far a job is, what went wrong, what to know."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .work import Stepped
from .worker import Waiting


def calm(text: str) -> str:
    """A line that asks for nothing."""
    return _status(f"<div class='calm'>{escape(text)}</div>")


def error(text: str, warnings: Sequence[str] = ()) -> str:
    """What went wrong, in the words of the error."""
    return _status(f"<div class='error' role='alert'>{escape(text)}</div>{_warned(warnings)}")


def ended(text: str, warnings: Sequence[str]) -> str:
    """A job is over."""
    return _status(f"<div class='calm'>{escape(text)}</div>{_warned(warnings)}")


def waiting(event: Waiting) -> str:
    """A job stands in line."""
    before = "1 job is" if event.ahead == 1 else f"{event.ahead} jobs are"
    return calm("starting" if event.ahead == 0 else f"waiting: {before} before this one")


def stepped(event: Stepped, warnings: Sequence[str]) -> str:
    """A bar, and how long it will take."""
    pace = event.seconds / event.done
    left = pace * (event.total - event.done)
    share = 100 * event.done / event.total
    return _status(
        f"<div class='line'><span>step {event.done} of {event.total}</span>"
        f"<span>{pace:.2f} s a step, {left:.0f} s left</span></div>"
        f"<div class='track'><div class='fill' style='width:{share:.1f}%'></div></div>"
        f"{_warned(warnings)}"
    )


def _warned(warnings: Sequence[str]) -> str:
    return "".join(f"<div class='warning'>{escape(text)}</div>" for text in warnings)


def _status(inner: str) -> str:
    return f"<div class='status'>{inner}</div>"
