"""What a composition method is: a small frozen dataclass that says, for each step, which gate each
adapter gets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, get_type_hints

from torch import Tensor

from compose.attention.bias import Bias
from compose.errors import RequestError, nearest
from compose.gate import Gate
from compose.guidance import Sides, cfg
from compose.types import Step

if TYPE_CHECKING:
    from compose.run import Pass, Run

Value = float | int | bool | str


@dataclass(frozen=True)
class Param:
    """One field of a method, as the command line, the UI and the docs show it.

    Attributes:
        name: field name.
        type: "float", "int", "bool" or "str".
        default: value when not given.
        low, high: inclusive range of a number.
        help: one sentence.
        choices: allowed words of a "str".
    """

    name: str
    type: str
    default: Value
    low: float | None
    high: float | None
    help: str
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Value:
        """Validate a value, also one given as text.

        Raises:
            RequestError: of another type, out of range, or none of the choices.
        """
        if self.type == "str":
            return self._word(value)
        if self.type == "bool":
            return self._truth(value)
        return self._number(value)

    def _word(self, value: Any) -> str:
        if value not in self.choices:
            raise RequestError(
                f"{self.name}={value} is none of {', '.join(self.choices)};"
                f" {nearest(str(value), self.choices)}"
            )
        return str(value)

    def _truth(self, value: Any) -> bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if isinstance(value, bool):
            return value
        if str(value).lower() not in words:
            raise RequestError(f"{self.name}={value} is not a truth value; expected true or false")
        return words[str(value).lower()]

    def _number(self, value: Any) -> float | int:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise RequestError(
                f"{self.name}={value} is not a number; expected {self._range()}"
            ) from None
        whole = self.type == "int"
        if (
            not math.isfinite(number)
            or (whole and number != int(number))
            or not self._inside(number)
        ):
            raise RequestError(f"{self.name}={value} is out of range; expected {self._range()}")
        return int(number) if whole else number

    def _inside(self, number: float) -> bool:
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high
        )

    def _range(self) -> str:
        kind = "a whole number" if self.type == "int" else "a number"
        if self.low is None and self.high is None:
            return kind
        if self.high is None:
            return f"{kind} of at least {self.low:g}"
        if self.low is None:
            return f"{kind} of at most {self.high:g}"
        return f"{kind} from {self.low:g} to {self.high:g}"


def param(
    default: Value,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a method. Flags, sliders and documentation are made from it.

    Args:
        default: value when not given; its type is the field's type.
        help: one sentence.
        low, high: inclusive range of a number.
        choices: allowed words, for a field of type str.
    """
    return field(
        default=default,
        metadata={"help": help, "low": low, "high": high, "choices": tuple(choices)},
    )


@dataclass(frozen=True, kw_only=True)
class CompositionMethod(ABC):
    """Base of all methods. Fields are the parameters; what a run needs to remember lives in
    ``run.state``.

    One instance serves any number of runs.

    Attributes:
        name: as the command line calls it.
        title: for people.
        source: address of the paper or code the method follows.
        order_free: whether the order of adapters makes no difference.
        minimum: least number of adapters it can work with.
        plain_alone: whether a single adapter without a region acts as it does in a merge.
        needs: what it needs beside gates: "prompt" (its words), "regions", "spans", "streams",
            "capture", "grad".
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    order_free: ClassVar[bool] = True
    minimum: ClassVar[int] = 0
    plain_alone: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for p in self.params():
            object.__setattr__(self, p.name, p.check(getattr(self, p.name)))

    @classmethod
    def params(cls) -> tuple[Param, ...]:
        """The fields, in order."""
        hints = get_type_hints(cls)
        found = []
        for f in fields(cls):
            meta, default = f.metadata, cast(Value, f.default)
            low, high, words = meta.get("low"), meta.get("high"), meta.get("choices", ())
            found.append(
                Param(
                    f.name,
                    hints[f.name].__name__,
                    default,
                    low,
                    high,
                    meta.get("help", ""),
                    words,
                )
            )
        return tuple(found)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """An instance from field names and values, which may be text.

        Raises:
            RequestError: an unknown field or a bad value.
        """
        known = {p.name for p in cls.params()}
        for name in values:
            if name not in known:
                raise RequestError(
                    f"method {cls.name} has no field {name!r}; {nearest(name, known)}"
                )
        return cls(**dict(values))

    def values(self) -> dict[str, Value]:
        """Field names and values."""
        return {p.name: getattr(self, p.name) for p in self.params()}

    def check(self, run: Run) -> None:
        """Refuse a run that makes no sense for this method.

        Raises:
            RequestError: too few adapters.
        """
        if len(run.adapters) < self.minimum:
            raise RequestError(
                f"method {self.name} got {len(run.adapters)} adapters; expected at least"
                f" {self.minimum}:"
                " add them with --lora NAME"
            )

    def prepare(self, run: Run) -> Any:
        """What the method remembers during a run; kept in ``run.state``."""
        del run

    def adjust(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        """Change the latents [images, C, H, W] before a step."""
        del run, step
        return latents

    @abstractmethod
    def passes(self, run: Run, step: Step) -> list[Pass]:
        """The passes of a step."""

    def sides(self, run: Run, step: Step, predictions: Mapping[str, Tensor]) -> Sides:
        """Bring the predictions of the passes, by name, down to one for the prompt and one for the
        negative prompt. As it stands it is for one pair of passes, "cond" and "uncond".
        """
        del run, step
        return Sides(predictions["cond"], predictions.get("uncond"))

    def fuse(self, run: Run, step: Step, predictions: Mapping[str, Tensor]) -> Tensor:
        """One prediction [images, C, H, W] from those of the passes, by name: classifier-free
        guidance between the two `sides`.

        A method overrides it to bring guidance of its own; it can then not be attached to a
        pipeline, which guides by itself.
        """
        sides = self.sides(run, step, predictions)
        if sides.uncond is None:
            return sides.cond
        return cfg(sides.uncond, sides.cond, run.guidance)


@dataclass(frozen=True, kw_only=True)
class GatedMethod(CompositionMethod):
    """A method that is nothing but a gate: one pass under it, and ordinary guidance.

    Attributes:
        chooses: by what it chooses between adapters: "time", "place" or "words"; empty for a method
            that treats all alike. A product takes one method of each.
        uncond: whether the gate acts on the rows of the negative prompt too.
    """

    chooses: ClassVar[str] = ""

    uncond: bool = param(True, "adapters act on the rows of the negative prompt too")

    @abstractmethod
    def gate(self, run: Run, step: Step) -> Gate:
        """The gate of a step: one row, or one for every image."""

    def shares(self, run: Run, step: Step) -> Sequence[float]:
        """Share [K] of each adapter's text-encoder weight at a step."""
        del step
        return [1.0] * len(run.adapters)

    def biases(self, run: Run, step: Step) -> Sequence[Bias]:
        """What is added to the logits of attention at a step, in the rows under the gate."""
        del run, step
        return ()

    def passes(self, run: Run, step: Step) -> list[Pass]:
        """Negative prompt and prompt under the gate; the prompt alone when there is no guidance."""
        gate, shares = self.gate(run, step), self.shares(run, step)
        return run.guided_passes("", gate, shares, uncond=self.uncond, bias=self.biases(run, step))
