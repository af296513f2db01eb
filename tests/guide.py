"""A guide with whole files and diffs in it, followed to the letter but in memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(
    r"(?:^`(?P<path>[\w/]+\.py)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_OUTSIDE = {"app": "compose_app", "workflows": "compose_workflows"}


@dataclass(frozen=True)
class Guide:
    """What somebody has who followed a guide.

    Attributes:
        files: path to the text of every file that is new or changed, in the order of the guide.
        new: paths of the new ones.
    """

    files: Mapping[str, str]
    new: frozenset[str]


def read_guide(path: Path) -> Guide:
    """Read a guide and apply it to the files that are here.

    A file is a block of Python below a line with its path in backticks and a colon; a diff is a
    block that begins with ``--- path`` and has no line numbers.

    Raises:
        ValueError: another block, or a diff that does not fit.
    """
    files: dict[str, str] = {}
    new = []
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        name, kind, text = block["path"], block["kind"], block["text"]
        if kind == "diff" and text.startswith("--- "):
            head, _, diff = text.partition("\n")
            name = head.removeprefix("--- ")
            files[name] = applied(name, (ROOT / name).read_text(encoding="utf-8"), diff)
        elif kind == "python" and name is not None:
            files[name] = text
            new.append(name)
        else:
            raise ValueError(f"{path} has a block of {kind} that is no file and no diff: {text}")
    return Guide(files, frozenset(new))


def applied(name: str, text: str, diff: str) -> str:
    """A file after a diff, whose lines are looked for one below the other.

    Raises:
        ValueError: a line that should be there is not.
    """
    lines, at = text.splitlines(), 0
    for line in diff.splitlines():
        sign, rest = line[:1], line[1:]
        if sign == "+":
            lines.insert(at, rest)
            at += 1
            continue
        if rest not in lines[at:]:
            raise ValueError(f"{name} has no line {rest!r} from line {at + 1} on")
        at = lines.index(rest, at)
        if sign == "-":
            del lines[at]
        else:
            at += 1
    return "\n".join(lines) + "\n"


def module_name(path: str) -> str:
    """Name under which a file is imported."""
    first, *rest = path.removesuffix(".py").split("/")
    return ".".join((_OUTSIDE.get(first, first), *rest))


def module(path: str, text: str) -> ModuleType:
    """A module of a file's text, registered only while it is made, as dataclasses need it."""
    made = ModuleType(module_name(path))
    made.__package__ = made.__name__.rpartition(".")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, made.__name__, made)
        exec(compile(text, path, "exec", dont_inherit=True), made.__dict__)
    return made
