"""What is asked for: plain frozen data that goes into a picture's metadata and comes back out of
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from compose.errors import RequestError, nearest
from compose.fusion import method as method_named
from compose.fusion.merge import Merge
from compose.method import CompositionMethod
from compose.regions import Mask, Region, region_from_json
from compose.text.positions import occurrences
from compose.text.weighting import parse_weights
from compose.types import Size

MAX_SEED = 2**63 - 1
MAX_CLIP_SKIP = 12
MAX_MASKS = 256 * 2**10
"""Most bytes that the masks of one request may take, packed: they have to fit into a picture."""


@dataclass(frozen=True)
class AdapterUse:
    """One adapter in a request.

    Attributes:
        name: name in the library, or a file.
        weight: strength in the denoiser; negative values turn a slider the other way.
        text_weight: strength in the text encoders; None takes `weight`.
        region: where in the picture it belongs; None for everywhere.
        trigger: words of the prompt that call it, in place of those that its file names.
    """

    name: str
    weight: float = 1.0
    text_weight: float | None = None
    region: Region | None = None
    trigger: str | None = None

    def __post_init__(self) -> None:
        for what, value in (("weight", self.weight), ("text-encoder weight", self.text_weight)):
            if value is not None and not math.isfinite(value):
                raise RequestError(
                    f"adapter {self.name} has {what} {value}; expected a finite number such as 0.8"
                )

    @property
    def text_strength(self) -> float:
        """Strength in the text encoders."""
        return self.weight if self.text_weight is None else self.text_weight

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold; `from_json` reads it back."""
        data: dict[str, Any] = {n: getattr(self, n) for n in ("name", "weight", "text_weight")}
        if self.region is not None:
            data["region"] = self.region.to_json()
        if self.trigger is not None:
            data["trigger"] = self.trigger
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RequestError: a senseless entry.
            TypeError, KeyError, ValueError: another form.
        """
        region = data.get("region")
        return cls(**{**data, "region": None if region is None else region_from_json(region)})


def placed(uses: Iterable[AdapterUse], regions: Mapping[str, Region]) -> tuple[AdapterUse, ...]:
    """Adapters with the regions that are given for them by name.

    Raises:
        RequestError: a region for none of them.
    """
    uses = tuple(uses)
    for name in regions:
        if name not in (known := [use.name for use in uses]):
            raise RequestError(
                f"a region is for {name!r}, which is no adapter of this request;"
                f" {nearest(name, known)}"
            )
    return tuple(replace(use, region=regions.get(use.name, use.region)) for use in uses)


@dataclass(frozen=True)
class Request:
    """Everything that decides how a picture comes out, apart from the machine.

    Attributes:
        prompt, negative: texts without adapter tags, with weights as of `compose.text.weighting`.
        adapters: in the order of the K axis.
        method: a composition method with its parameters.
        size: None for the size the model was trained at.
        steps: denoising steps.
        guidance: classifier-free guidance scale, where 1 or less turns it off; for a
            guidance-distilled model (FLUX) the scale that it takes as an input. None for the
            model's own.
        true_cfg: classifier-free guidance scale of a guidance-distilled model; None or 1 for none.
        clip_skip: which layer of the CLIP text encoders is read, counted from the end: 1 the last,
            2 the one before; None for the model's own.
        scheduler: a name that the model's family knows, such as "euler"; None for the model's own.
        seeds: one picture each.

    Raises:
        RequestError: a value that makes no sense.
    """

    prompt: str
    negative: str = ""
    adapters: tuple[AdapterUse, ...] = ()
    method: CompositionMethod = field(default_factory=Merge)
    size: Size | None = None
    steps: int = 20
    guidance: float | None = None
    true_cfg: float | None = None
    clip_skip: int | None = None
    scheduler: str | None = None
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise RequestError(f"steps {self.steps} is out of range; expected 1 to 1000")
        for what, scale in (("guidance", self.guidance), ("true_cfg", self.true_cfg)):
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise RequestError(
                    f"{what} {scale} makes no sense; expected a number of at least 0"
                )
        if self.clip_skip is not None and not 1 <= self.clip_skip <= MAX_CLIP_SKIP:
            raise RequestError(
                f"clip_skip {self.clip_skip} is out of range; expected 1 (the last layer) to"
                f" {MAX_CLIP_SKIP}"
            )
        if not self.seeds or any(not 0 <= s <= MAX_SEED for s in self.seeds):
            raise RequestError(
                f"seeds {list(self.seeds)} make no sense; expected at least one, from 0 to"
                f" {MAX_SEED}"
            )
        for text in (self.prompt, self.negative):
            parse_weights(text)
        names = [a.name for a in self.adapters]
        for name in names:
            if names.count(name) > 1:
                raise RequestError(
                    f"adapter {name} was given {names.count(name)} times; give it once, with one"
                    " weight"
                )
        self._check_triggers()
        self._check_masks()

    @property
    def regions(self) -> dict[str, Region]:
        """Name of an adapter to its region, for those that have one."""
        return {a.name: a.region for a in self.adapters if a.region is not None}

    def one_by_one(self) -> list[Self]:
        """A request for each picture."""
        return [replace(self, seeds=(seed,)) for seed in self.seeds]

    def _check_triggers(self) -> None:
        for use in self.adapters:
            if use.trigger is not None and not occurrences(self.prompt, use.trigger):
                raise RequestError(
                    f"adapter {use.name} is bound to {use.trigger!r}, which is not in the prompt;"
                    " expected words that stand there, so add them or bind others"
                )

    def _check_masks(self) -> None:
        masks = [region for region in self.regions.values() if isinstance(region, Mask)]
        size = sum(len(mask.packed) for mask in masks)
        if size > MAX_MASKS:
            raise RequestError(
                f"the masks of the request take {size // 1024} KiB when packed, which is too much"
                f" for the recipe in a picture; expected at most {MAX_MASKS // 1024} KiB, so make"
                " them smaller: an eighth of the picture's width and height is enough"
            )

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold; `from_json` reads it back."""
        apart = ("method", "size", "seeds", "adapters")
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        return {
            **data,
            "adapters": [a.to_json() for a in self.adapters],
            "method": {"name": self.method.name, "fields": self.method.values()},
            "size": None if self.size is None else [self.size.width, self.size.height],
            "seeds": list(self.seeds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RequestError: a missing, unknown or senseless entry.
        """
        known = set(cls.__dataclass_fields__)
        unknown = sorted(set(data) - known)
        if unknown or "prompt" not in data:
            raise RequestError(
                f"a request with {', '.join(unknown) or 'no prompt'}; expected prompt and some of"
                f" {', '.join(sorted(known))}"
            )
        try:
            values = dict(data)
            values["adapters"] = tuple(AdapterUse.from_json(a) for a in data.get("adapters", ()))
            chosen = data.get("method") or {"name": "merge"}
            values["method"] = method_named(chosen["name"]).parse(chosen.get("fields", {}))
            values["size"] = None if data.get("size") is None else Size(*data["size"])
            values["seeds"] = tuple(data.get("seeds", (0,)))
            return cls(**values)
        except RequestError:
            raise
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise RequestError(
                f"a request could not be read: {error}; expected the form that a picture carries"
            ) from None


OF_A_ROW = ("prompt", "negative", "seeds")
"""Fields in which rows of one denoiser call may differ."""


def check_together(requests: Sequence[Request]) -> None:
    """Refuse to make pictures as rows of the same denoiser calls that cannot be.

    Raises:
        RequestError: the requests differ in more than prompt, negative prompt and seed.
    """
    for one in requests:
        if replace(requests[0], **{name: getattr(one, name) for name in OF_A_ROW}) != one:
            raise RequestError(
                "pictures that differ in more than prompt, negative prompt and seed were to share"
                " a denoiser call; expected the same size, adapters, method and so on"
            )
