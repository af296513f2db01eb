"""Products: methods that are gates, combined by multiplying the gates and adding up biases.

``tara*regional`` is TARA in the prompt and regions in the picture at once; ``switch*regional`` lets
placed adapters take turns. See docs/decisions/0007-products.md.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from compose.attention.bias import Bias
from compose.errors import RequestError
from compose.gate import Gate
from compose.method import CompositionMethod, GatedMethod, Param, Value
from compose.types import Step

if TYPE_CHECKING:
    from compose.run import Pass, Run

SIGN = "*"
"""Stands between the names of the parts."""
_BEYOND_GATES = ("passes", "sides", "fuse", "adjust")
"""What a method overrides that is more than a gate."""


@dataclass(frozen=True, init=False)
class Product(CompositionMethod):
    """The gates of several methods, multiplied. `product` makes a class of it for given kinds.

    Every part is asked as if all weights were one, so that these count once. Fields are those of
    the parts, called ``part.field``.

    Attributes:
        kinds: classes of the parts.
        parts: one instance of each.
    """

    kinds: ClassVar[tuple[type[GatedMethod], ...]]
    parts: tuple[GatedMethod, ...] = field(default=())

    def __init__(self, **values: Any) -> None:
        parts = []
        for kind in self.kinds:
            names = [(f"{kind.name}.{p.name}", p.name) for p in kind.params()]
            parts.append(kind(**{n: values.pop(full) for full, n in names if full in values}))
        if values:
            raise TypeError(f"{self.name} has no field {', '.join(values)}")
        object.__setattr__(self, "parts", tuple(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.kinds, self.values())

    @classmethod
    def params(cls) -> tuple[Param, ...]:
        """The fields of all parts."""
        return tuple(
            replace(p, name=f"{kind.name}.{p.name}") for kind in cls.kinds for p in kind.params()
        )

    def values(self) -> dict[str, Value]:
        """Field names and values."""
        return {f"{p.name}.{n}": value for p in self.parts for n, value in p.values().items()}

    def check(self, run: Run) -> None:
        """Refuse what one of the parts refuses."""
        super().check(run)
        for part in self.parts:
            part.check(run)

    def prepare(self, run: Run) -> list[Any]:
        """What each part remembers."""
        return [part.prepare(_seen(run, None)) for part in self.parts]

    def gate(self, run: Run, step: Step) -> Gate:
        """The product of the parts' gates and the weights. What is said of text by a part that does
        not choose by words gives way to one that does.
        """
        views = [_seen(run, state) for state in run.state]
        gates = [part.gate(view, step) for part, view in zip(self.parts, views, strict=True)]
        run.state[:] = [view.state for view in views]
        if any(part.chooses == "words" for part in self.parts):
            gates = [
                gate if part.chooses == "words" else replace(gate, text=None)
                for part, gate in zip(self.parts, gates, strict=True)
            ]
        rows = max(gate.rows for gate in gates)
        whole = (gate.expand(rows) for gate in gates)
        return functools.reduce(Gate.__mul__, whole, Gate.all(run.weights).expand(rows))

    def shares(self, run: Run, step: Step) -> Sequence[float]:
        """The product of the parts' shares [K] of the text-encoder weights."""
        shares = [1.0] * len(run.adapters)
        for part, state in zip(self.parts, run.state, strict=True):
            own = part.shares(_seen(run, state), step)
            shares = [a * b for a, b in zip(shares, own, strict=True)]
        return shares

    def biases(self, run: Run, step: Step) -> list[Bias]:
        """What all parts add to the logits of attention."""
        found: list[Bias] = []
        for part, state in zip(self.parts, run.state, strict=True):
            found += part.biases(_seen(run, state), step)
        return found

    def passes(self, run: Run, step: Step) -> list[Pass]:
        """Negative prompt and prompt; on the former adapters act if no part says no."""
        uncond = all(part.uncond for part in self.parts)
        gate, shares = self.gate(run, step), self.shares(run, step)
        return run.guided_passes("", gate, shares, uncond=uncond, bias=self.biases(run, step))


@functools.cache
def product(*kinds: type[CompositionMethod]) -> type[Product]:
    """The class for a product of methods.

    Raises:
        RequestError: one that is no mere gate, or that does not choose between adapters; two that
            choose by the same thing.
    """
    gated: list[type[GatedMethod]] = []
    for kind in kinds:
        _check_kind(kind, gated)
        gated.append(cast(type[GatedMethod], kind))
    names = {
        "kinds": tuple(gated),
        "name": SIGN.join(kind.name for kind in gated),
        "title": " x ".join(kind.title for kind in gated),
        "source": gated[0].source,
        "order_free": all(kind.order_free for kind in gated),
        "plain_alone": all(kind.plain_alone for kind in gated),
        "minimum": max(kind.minimum for kind in gated),
        "needs": frozenset().union(*(kind.needs for kind in gated)),
        "__doc__": f"The gates of {' and '.join(kind.name for kind in gated)}, multiplied.",
    }
    return type("Product", (Product,), names)


def _check_kind(kind: type[CompositionMethod], before: Sequence[type[GatedMethod]]) -> None:
    if not (issubclass(kind, GatedMethod) and all(_inherits(kind, n) for n in _BEYOND_GATES)):
        raise RequestError(
            f"method {kind.name} was given in a product, but it is more than a gate; expected"
            " methods of one pass, such as tara, regional and switch, so use it alone"
        )
    if not kind.chooses:
        raise RequestError(
            f"method {kind.name} was given in a product, where it changes nothing: it treats all"
            " adapters alike; expected methods that choose between them, so leave it out"
        )
    for other in before:
        if other.chooses == kind.chooses:
            raise RequestError(
                f"methods {other.name} and {kind.name} were given in one product, and both choose"
                f" adapters by {kind.chooses}; expected one of them, so leave the other out"
            )


def _inherits(kind: type[GatedMethod], name: str) -> bool:
    return getattr(kind, name) is getattr(GatedMethod, name)


def _seen(run: Run, state: Any) -> Run:
    """A run as a part sees it: with a state of its own and weights of one."""
    view = copy.copy(run)
    view.state, view.weights = state, (1.0,) * len(run.weights)
    return view


def _again(kinds: tuple[type[GatedMethod], ...], values: dict[str, Value]) -> Product:
    return product(*kinds)(**values)
