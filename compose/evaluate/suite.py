"""What an evaluation suite is: groups of adapter combinations, and how their prompts are worded.

A suite is a YAML file; `compose.evaluate.suite_file` reads and checks it, `compose.evaluate.cases`
turns it into prompts with known answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from compose.world.speaker import Phrasing

ORDER = ("character", "clothing", "style", "background", "object")
"""Adapters of a request come in this order (Zhong et al. 2024, section 3.2: the first matters)."""


@dataclass(frozen=True)
class Group:
    """Combinations that are asked for in the same way.

    Attributes:
        name: first part of the names of its cases.
        combinations: names of shipped concepts, each in the order of `ORDER`.
        wording: as of `compose.world.captions.caption`.
        templates: sentences that replace that wording, with the slots {left}, {right}, {middle} (or
            {it} where there is one thing) and {where}; empty for none.
        weights: strengths of the adapters; every one makes a case of its own.
        dressed: share of the animals without a piece of clothing from an adapter that wear one
            which the base model knows, in [0, 1].
    """

    name: str
    combinations: tuple[tuple[str, ...], ...]
    wording: Phrasing = "train"
    templates: tuple[str, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    dressed: float = 0.0


@dataclass(frozen=True)
class Suite:
    """A set of questions with known answers.

    Attributes:
        name: of its file.
        title: one line for people.
        seeds: how many seeds each combination gets unless asked otherwise.
        steps: denoising steps.
        groups: at least one.
    """

    name: str
    title: str
    seeds: int
    steps: int
    groups: tuple[Group, ...]
