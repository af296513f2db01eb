"""Settings of one training: the `train` part of a concept file, over defaults by category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from compose.errors import ConceptError, nearest
from compose.world.concept_fields import read_mapping
from compose.world.concepts import Concept, load_concept

TARGETS: dict[str, tuple[str, ...]] = {
    "keys_values": ("attn2.to_k", "attn2.to_v"),
    "cross": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention_ff": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    "wide": (
        *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
        *("proj_in", "proj_out", "conv1", "conv2"),
    ),
}

# A character is told to the model through its name, so attention carries it. A style, a place or a
# new shape changes what the convolutions draw.
_BY_CATEGORY: dict[str, dict[str, Any]] = {
    "character": {"targets": "attention_ff", "rank": 8},
    "clothing": {"targets": "attention_ff", "rank": 8},
}
_OTHER: dict[str, Any] = {"targets": "wide", "rank": 4}
_ALIGN = 1.0  # as the released code of TARA


@dataclass(frozen=True)
class Limit:
    """What one setting may be: a whole number, a number, a yes or no, or one of some words."""

    kind: type
    low: float = 0.0
    high: float = 0.0
    words: tuple[str, ...] = ()
    optional: bool = False

    def __str__(self) -> str:
        if self.kind is bool:
            text = "true or false"
        elif self.words:
            text = f"one of {', '.join(self.words)}"
        else:
            text = (
                f"a {'whole ' if self.kind is int else ''}number from {self.low:g} to {self.high:g}"
            )
        return f"{text}, or null" if self.optional else text

    def read(self, value: object) -> Any:
        """The value as its own kind.

        Raises:
            ValueError: it is not what the limit allows.
        """
        if value is None and self.optional:
            return None
        if self.words or self.kind is bool:
            if (value in self.words) if self.words else isinstance(value, bool):
                return value
            raise ValueError
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        number = float(value)  # YAML 1.1 reads 1e-3 as text
        if not self.low <= number <= self.high or (self.kind is int and number != int(number)):
            raise ValueError
        return self.kind(number)


LIMITS: dict[str, Limit] = {
    "rank": Limit(int, 1, 128),
    "alpha": Limit(float, 0.01, 512),
    "steps": Limit(int, 1, 100_000),
    "batch": Limit(int, 1, 512),
    "lr": Limit(float, 1e-7, 1.0),
    "targets": Limit(str, words=tuple(TARGETS)),
    "caption_dropout": Limit(float, 0, 0.5),
    "min_snr": Limit(float, 0.1, 100, optional=True),
    "prior": Limit(float, 0, 0.75),
    "tara": Limit(bool),
    "align": Limit(float, 0, 100),
    "align_power": Limit(int, 1, 2),
    "company": Limit(float, 0, 1),
    "captions": Limit(int, 1, 64),
    "flip": Limit(bool),
    "seed": Limit(int, 0, 2**31 - 1),
}


@dataclass(frozen=True)
class LoraSettings:
    """How one adapter is trained.

    Attributes:
        rank: columns of the low-rank factors of every layer.
        alpha: the update is scaled by alpha / rank. The saved file has that scale folded in.
        steps: optimiser steps.
        batch: pictures a step.
        lr: learning rate at the start; a cosine takes it to a tenth.
        targets: which layers of the UNet get factors, a word of `TARGETS`.
        caption_dropout: share of pictures trained with the empty caption, which guidance needs.
        min_snr: cap on the signal-to-noise ratio in the loss weight
            (https://arxiv.org/abs/2303.09556); None: plain squared error of the scheduler's target.
        prior: share of every batch that shows the world without the concept, so that the
            concept's neighbours stay as they were.
        tara: the adapter's change of what image tokens read of the text (keys and values of
            cross-attention) acts on the trigger's tokens alone, as it does under the method tara.
        align: weight of TARA's alignment loss, which draws the trigger's keys to those that the
            base has for the class word; see `compose.train.lora_tara`.
        align_power: 1 for the mean absolute difference, 2 for the mean square.
        company: share of the drawn pictures in which something that the base knows stands beside
            the concept, so that the concept keeps to itself.
        captions: wordings drawn for every rendered picture.
        flip: also train on mirrored pictures, with those captions that name neither left nor right.
        seed: of pictures, captions, first factors, noise.
    """

    rank: int
    alpha: float
    steps: int
    batch: int
    lr: float
    targets: str
    caption_dropout: float
    min_snr: float | None
    prior: float
    tara: bool
    align: float
    align_power: int
    company: float
    captions: int
    flip: bool
    seed: int


@dataclass(frozen=True)
class LoraConfig:
    """One training: what to teach and how.

    Attributes:
        concept: what to teach.
        settings: how.
        source: the concept file's content, kept in the adapter's header.
    """

    concept: Concept
    settings: LoraSettings
    source: Mapping[str, Any]


def defaults(concept: Concept, *, gpu: bool) -> dict[str, Any]:
    """Settings of a concept that asks for nothing.

    Two are left out: alpha follows the rank, and align is 1 with tara and 0 without.
    """
    return {
        "steps": 600 if gpu else 300,
        "batch": 32 if gpu else 8,
        "lr": 1e-3,
        "caption_dropout": 0.08,
        "min_snr": None,
        "prior": 0.0,
        "tara": False,
        "align_power": 1,
        "company": 0.0,
        "captions": 6,
        "flip": concept.images is not None,
        "seed": concept.seed,
        **_BY_CATEGORY.get(concept.category, _OTHER),
    }


def load_config(
    path: str | Path, *, gpu: bool = False, overrides: Mapping[str, object] | None = None
) -> LoraConfig:
    """Read a concept file with its optional `train:` part.

    Args:
        path: YAML file.
        gpu: whether it will run on a GPU; decides the default steps and batch.
        overrides: settings that win over the file's, for example from the command line.

    Raises:
        ConceptError: the file cannot be read, or a setting is unknown or out of its range.
    """
    path = Path(path)
    concept = load_concept(path)
    source = read_mapping(path)
    section = source.get("train") or {}
    if not isinstance(section, Mapping):
        raise ConceptError(
            f"{path}: train is {section!r}, expected settings of its own; "
            "write for example train: {rank: 8}"
        )
    values = defaults(concept, gpu=gpu) | _read(section, str(path))
    values |= _read(overrides or {}, "options")
    values.setdefault("alpha", float(values["rank"]))
    values.setdefault("align", _ALIGN if values["tara"] else 0.0)
    _check_align(values, concept, str(path))
    _check_company(values, concept, str(path))
    return LoraConfig(concept, LoraSettings(**values), dict(source))


def _check_align(values: Mapping[str, Any], concept: Concept, where: str) -> None:
    """Alignment is a part of TARA and needs a word to align with."""
    if not values["align"]:
        return
    if not values["tara"]:
        raise ConceptError(
            f"{where}: train.align is {values['align']:g}, but train.tara is false; alignment is a "
            "part of TARA, so set train.tara: true or leave train.align out"
        )
    if not concept.class_word:
        raise ConceptError(
            f"{where}: train.align is {values['align']:g}, but the concept has no class_word whose "
            "keys the trigger's could be drawn to; add one or set train.align: 0"
        )


def _check_company(values: Mapping[str, Any], concept: Concept, where: str) -> None:
    """Only figures and what they wear are drawn alone or in company."""
    if values["company"] and concept.thing is None and concept.accessory is None:
        raise ConceptError(
            f"{where}: train.company is {values['company']:g}, but only what is drawn from thing "
            "or accessory can have company; leave it out"
        )


def _read(section: Mapping[Any, object], where: str) -> dict[str, Any]:
    """Check every setting of one source."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        limit = LIMITS.get(key)
        if limit is None:
            known = nearest(str(key), (f.name for f in fields(LoraSettings)))
            raise ConceptError(f"{where}: train.{key} is not a setting; {known}")
        try:
            values[key] = limit.read(value)
        except (ValueError, OverflowError):
            raise ConceptError(
                f"{where}: train.{key} is {value!r}, expected {limit}; correct the value"
            ) from None
    return values
