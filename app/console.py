"""What reaches the terminal: results on stdout, everything else on stderr, errors as one line."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from compose.errors import ComposeError

if TYPE_CHECKING:
    from compose.result import Progress

DONE, OUR_FAULT, USERS_FAULT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
_VERBOSITY = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY")
_PAUSE = 5.0  # seconds between two lines of progress where there is no terminal


class Screen:
    """Where a command writes.

    Args:
        quiet: no progress and no notices. Warnings and errors stay.
        as_json: results are one JSON object; lines of text are not written.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self.warnings: list[str] = []
        self._bar: Any = None

    def result(self, line: str) -> None:
        """A line of the result, on stdout."""
        if not self.as_json:
            self._echo(line, err=False)

    def data(self, value: Any) -> None:
        """The whole result as JSON, on stdout."""
        if self.as_json:
            self._echo(json.dumps(value, allow_nan=False), err=False)

    def note(self, line: str) -> None:
        """Something good to know, on stderr."""
        if not self.quiet:
            self._echo(one_line(line), err=True)

    def warn(self, line: str) -> None:
        """A warning, on stderr and in the JSON. The same one is given once."""
        if line not in self.warnings:
            self.warnings.append(line)
            self._echo(f"warning: {one_line(line)}", err=True)

    def watch(self, where: Progress) -> None:
        """Look at a picture in the making. A terminal has no use for it."""

    @contextmanager
    def progress(self, what: str, rounds: int) -> Iterator[Callable[[int, int], None]]:
        """Show how far some rounds of steps are: a bar on a terminal, else now and then a line.

        Args:
            what: name of a round, such as "picture".
            rounds: how many there are.

        Yields:
            To be called after each step with the steps done in this round and their total.
        """
        if self.quiet:
            yield lambda done, total: None
        elif sys.stderr.isatty():
            with self._tqdm(what, rounds) as step:
                yield step
        else:
            yield _Lines(what, rounds, self.note)

    @contextmanager
    def _tqdm(self, what: str, rounds: int) -> Iterator[Callable[[int, int], None]]:
        from tqdm import tqdm

        with tqdm(desc=what, unit="step", dynamic_ncols=True, leave=False) as bar:

            def step(done: int, total: int) -> None:
                bar.total = rounds * total
                if rounds > 1:
                    number = min(bar.n // total + 1, rounds)
                    bar.set_description(f"{what} {number}/{rounds}", refresh=False)
                bar.update(1)

            self._bar = bar
            try:
                yield step
            finally:
                self._bar = None

    def _echo(self, line: str, *, err: bool) -> None:
        if self._bar is not None:
            self._bar.clear()
        click.echo(line, err=err)


class _Lines:
    """Progress where there is no terminal: a line a round, and now and then one between."""

    def __init__(self, what: str, rounds: int, write: Callable[[str], None]) -> None:
        self.what, self.rounds, self.write = what, rounds, write
        self.round = 1
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self.last < _PAUSE:
            return
        pace = (now - self.start) / done
        left = pace * (total - done + (self.rounds - self.round) * total)
        self.write(
            f"{self.what} {self.round}/{self.rounds}: step {done}/{total}, {pace:.2f} s/step,"
            f" {left:.0f} s left"
        )
        self.last = now
        if done >= total:
            self.round += 1
            self.start = now


class _Handler(logging.Handler):
    """Our own modules' log records as warnings of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"warning: {one_line(record.getMessage())}", err=True)


def one_line(text: str) -> str:
    """A message without line breaks and control characters, which could garble the terminal."""
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in joined)


def guarded(work: Callable[[], Any]) -> int:
    """Run a command line and turn whatever comes out of it into an exit status.

    Args:
        work: the whole of it.

    Returns:
        0 done; 2 the user's mistake or a bad file, told in one line; 1 our fault, with a traceback;
        130 interrupted; 141 when nobody reads stdout any more.
    """
    try:
        with _quiet_libraries():
            code = work()
            sys.stdout.flush()
            return code if isinstance(code, int) else DONE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "lora-compose"
        _complain(f"{error.format_message().rstrip('.')}; see {command} --help")
        return USERS_FAULT
    except click.ClickException as error:
        _complain(error.format_message())
        return USERS_FAULT
    except ComposeError as error:
        _complain(str(error))
        return USERS_FAULT
    except (KeyboardInterrupt, click.Abort) as interrupt:
        click.echo(str(interrupt) or "interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except Exception:
        traceback.print_exc()
        return OUR_FAULT


def _complain(message: str) -> None:
    click.echo(f"error: {one_line(message)}", err=True)


def _drop_stdout() -> None:
    """Let Python's own flush at exit go nowhere, so that it does not complain."""
    with suppress(OSError):  # not a real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep warnings and log records of libraries from the terminal; ours come as warnings."""
    for name in _VERBOSITY:  # read when the libraries are imported, which happens later
        os.environ.setdefault(name, "error")
    ours, root, handler, nothing = (
        logging.getLogger("compose"),
        logging.getLogger(),
        _Handler(logging.WARNING),
        logging.NullHandler(),
    )
    ours.addHandler(handler)
    root.addHandler(nothing)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.removeHandler(handler)
        root.removeHandler(nothing)


def hush() -> None:
    """Switch off what transformers and diffusers say and draw while they load a model."""
    for name in ("transformers.utils.logging", "diffusers.utils.logging"):
        library = sys.modules.get(name)
        if library is not None:
            library.set_verbosity_error()
            library.disable_progress_bar()
