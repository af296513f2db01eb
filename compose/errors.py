"""Every error that lora-compose raises on purpose.

ComposeError
├── AdapterError
│   ├── AdapterFormatError      a file that cannot be read as an adapter
│   ├── AdapterMismatchError    an adapter that does not fit the model it is asked to change
│   └── AdapterNotFoundError    a name that the library does not hold
├── ModelError                  a base model that is missing, broken or of an unknown family
├── RequestError (ValueError)   a request that cannot be carried out as asked
│   └── UnknownMethodError
├── ShapeError (ValueError)     tensors that do not fit together
├── CaptureError                attention that cannot be read or changed as asked
├── ConceptError                a concept file that says something impossible
├── SuiteError                  an evaluation suite that says something impossible
├── SpecError                   a batch file that says something impossible
├── BatchError                  a batch of which pictures are missing
├── WorkerLostError             a worker process that died at work
├── KernelUnavailableError      a kernel that was asked for and cannot run here
└── MissingExtraError           an optional dependency that is not installed

A message says what was given, what was expected, and what to do. Programs may catch `ComposeError`;
the command line prints its message on one line and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ComposeError(Exception):
    """Base of every error that lora-compose raises on purpose."""


class AdapterError(ComposeError):
    """Something about an adapter."""


class AdapterFormatError(AdapterError):
    """A file that cannot be read as an adapter."""


class AdapterMismatchError(AdapterError):
    """An adapter that does not fit the model it is asked to change."""


class AdapterNotFoundError(AdapterError):
    """A name that the adapter library does not hold."""


class ModelError(ComposeError):
    """A base model that is missing, broken or of an unknown family."""


class RequestError(ComposeError, ValueError):
    """A request that cannot be carried out as asked."""


class UnknownMethodError(RequestError):
    """A composition method that does not exist."""


class ShapeError(ComposeError, ValueError):
    """Tensors that do not fit together."""


class CaptureError(ComposeError):
    """Attention that cannot be read or changed as asked."""


class ConceptError(ComposeError):
    """A concept file that says something impossible."""


class SuiteError(ComposeError):
    """An evaluation suite that says something impossible."""


class SpecError(ComposeError):
    """A batch file that says something impossible."""


class BatchError(ComposeError):
    """A batch of which pictures are missing."""


class WorkerLostError(ComposeError):
    """A worker process that died at work."""


class KernelUnavailableError(ComposeError):
    """A kernel that was asked for and cannot run here."""


class MissingExtraError(ComposeError):
    """An optional dependency that is not installed."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Say which known names are close to a mistyped one.

    Args:
        name: what was given.
        known: the names that exist.
        count: how many suggestions at most.

    Returns:
        A clause such as ``did you mean mochi or mocha?``, or the names that exist when none is
        close.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}"
