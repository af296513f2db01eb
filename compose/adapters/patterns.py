"""Path patterns of PEFT settings (`rank_pattern`, `alpha_pattern`), matched in linear time.

PEFT takes such a pattern as a regular expression and asks whether it describes the end of a
module's path: ``re.match(rf"(.*\\.)?({pattern})$", path)``. Patterns come with the file, so they
are not given to a backtracking engine. What is understood is what occurs: plain characters, ``.``,
character classes, ``\\d`` ``\\w``, repetitions ``* + ?``, ``^``, ``$``, and ``|`` at the top level.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_PATTERN = 500
"""Longest pattern, in characters."""

_ATOM = re.compile(
    r"(?P<atom>\\[dw]|\\[^\w\s]|\[(?:\w(?:-\w)?)+\]|[\w.-])(?P<times>[*+?]?)", re.ASCII
)
_SETS = {"\\d": re.compile("[0-9]"), "\\w": re.compile("[0-9A-Za-z_]"), ".": re.compile(".")}


@dataclass(frozen=True)
class _Atom:
    accepts: Callable[[str], object]
    optional: bool
    repeats: bool


@dataclass(frozen=True)
class PathPattern:
    """A compiled pattern.

    Attributes:
        text: as it was given.
        branches: alternatives; each says whether it is tied to the path's start, and its atoms.
    """

    text: str
    branches: tuple[tuple[bool, tuple[_Atom, ...]], ...]

    def matches(self, path: str) -> bool:
        """Whether the pattern describes a path, or the end of one after a dot."""
        return any(_branch_matches(anchored, atoms, path) for anchored, atoms in self.branches)


def compile_pattern(text: str) -> PathPattern:
    """Compile a pattern.

    Raises:
        ValueError: too long, or an expression beyond what is understood.
    """
    if len(text) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(text)} characters")
    return PathPattern(text, tuple(_compile_branch(branch) for branch in text.split("|")))


def _compile_branch(text: str) -> tuple[bool, tuple[_Atom, ...]]:
    anchored = text.startswith("^")
    body = text[anchored:]
    if body.endswith("$") and not body.endswith("\\$"):
        body = body[:-1]
    atoms: list[_Atom] = []
    at = 0
    while at < len(body):
        found = _ATOM.match(body, at)
        if found is None:
            raise ValueError(f"{body[at : at + 20]!r} in a pattern")
        times = found["times"]
        atoms.append(_Atom(_accepts(found["atom"]), times in ("*", "?"), times in ("*", "+")))
        at = found.end()
    return anchored, tuple(atoms)


def _accepts(atom: str) -> Callable[[str], object]:
    """A test for one character."""
    if atom in _SETS:
        return _SETS[atom].fullmatch
    if atom.startswith("["):
        try:
            return re.compile(atom).fullmatch
        except re.error:
            raise ValueError(f"{atom!r} in a pattern") from None
    return atom.removeprefix("\\").__eq__


def _branch_matches(anchored: bool, atoms: tuple[_Atom, ...], path: str) -> bool:
    if not any(a.optional or a.repeats for a in atoms):  # the usual case: of fixed length
        start = len(path) - len(atoms)
        if start < 0 or (start and (anchored or path[start - 1] != ".")):
            return False
        return all(a.accepts(c) for a, c in zip(atoms, path[start:], strict=True))
    starts = [0] if anchored else [0, *(i + 1 for i, c in enumerate(path) if c == ".")]
    return any(_simulate(atoms, path[start:]) for start in starts)


def _simulate(atoms: tuple[_Atom, ...], text: str) -> bool:
    """Run all possible positions in the pattern side by side over the text."""
    states = _closure({0}, atoms)
    for character in text:
        reached: set[int] = set()
        for state in states:
            if state < len(atoms) and atoms[state].accepts(character):
                reached.add(state + 1)
                if atoms[state].repeats:
                    reached.add(state)
        states = _closure(reached, atoms)
        if not states:
            return False
    return len(atoms) in states


def _closure(states: set[int], atoms: tuple[_Atom, ...]) -> set[int]:
    """Add the positions that are reached by leaving optional atoms out."""
    grown = set(states)
    for state in sorted(states):
        while state < len(atoms) and atoms[state].optional:
            state += 1
            grown.add(state)
    return grown
