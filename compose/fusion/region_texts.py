"""What methods share in which every adapter with a region has a text of its own there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from compose.adapters.triggers import check_called, phrase, without_triggers
from compose.attention import Bias, Capture, Isolation, Stream
from compose.fusion.regional import Regional
from compose.gate import Gate
from compose.method import CompositionMethod, param
from compose.run import Pass, Run
from compose.text.positions import find, occurrences
from compose.text.weighting import plain_text
from compose.types import Conditioning, Step, Token


@dataclass(frozen=True)
class Concept:
    """An adapter with a region, and what is said there.

    Attributes:
        name: of the adapter.
        texts: under its part of the text encoders, "cond": what is said there, and with guidance
            "uncond": the negative prompt.
        words: for every image, the text positions of each of its words.
        gate: of its stream.
        place: [1, H, W] on the grid of the latents.
    """

    name: str
    texts: Mapping[str, Conditioning]
    words: tuple[tuple[tuple[int, ...], ...], ...]
    gate: Gate
    place: Tensor

    def stream(self, side: str, capture: Mapping[str, Capture]) -> Stream:
        """Its stream in a pass: "cond" or "uncond"."""
        return Stream(self.name, self.texts[side], self.gate, self.place, capture)


@dataclass(frozen=True)
class Scene:
    """What is said where, in one run.

    Attributes:
        gate: of the passes.
        shares: [K] of the text-encoder weights, in the prompt as a whole.
        concepts: adapters with a region and a weight.
        bias: on the attention of the passes.
    """

    gate: Gate
    shares: tuple[float, ...]
    concepts: tuple[Concept, ...]
    bias: tuple[Bias, ...]


@dataclass(frozen=True, kw_only=True)
class RegionTexts(CompositionMethod):
    """In cross-attention each region listens to the words of its adapter; elsewhere the prompt is
    heard, by a model without these adapters.
    """

    minimum: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"prompt", "regions", "streams"})
    plain_alone: ClassVar[bool] = False

    local: str = param(
        "phrase",
        "what a region listens to, phrase: the trigger and class word of its adapter; prompt: all"
        " of the prompt but the triggers of the other adapters with a region",
        choices=("phrase", "prompt"),
    )
    scope: str = param(
        "reference",
        "reference: an adapter acts on its words' keys and values and on what comes of them;"
        " regional: also on image tokens in its region, in all other layers",
        choices=("reference", "regional"),
    )
    isolate: bool = param(True, "image tokens of one region do not see those of another")
    uncond: bool = param(True, "regions have texts in the rows of the negative prompt too")

    def check(self, run: Run) -> None:
        """Refuse adapters without words of their own."""
        super().check(run)
        adapters = [run.adapters.adapters[k] for k in _active(run)]
        for adapter in adapters:
            phrase(adapter, run.prompts)
        for prompt in run.prompts if self.local == "prompt" else ():
            check_called(adapters, prompt)

    def prepare(self, run: Run) -> Scene:
        """What is said where."""
        elsewhere = tuple(float(not placed) for placed in run.placed)
        if self.scope == "regional":
            gate = replace(Regional().prepare(run), weight=torch.tensor([run.weights]))
        else:
            gate = Gate.all(run.scaled(elsewhere))
        concepts = tuple(self._concept(run, k, elsewhere) for k in _active(run))
        bias: tuple[Bias, ...] = ()
        if self.isolate and len(concepts) > 1:
            bias = (Isolation(torch.stack([c.place for c in concepts], dim=1)),)
        return Scene(gate, elsewhere, concepts, bias)

    def passes(self, run: Run, step: Step) -> list[Pass]:
        """Negative prompt and prompt, with a stream for every region."""
        del step
        scene: Scene = run.state
        passes = []
        for p in run.guided_passes("", scene.gate, scene.shares):
            heard = scene.concepts if self.uncond or p.name == "cond" else ()
            streams = [concept.stream(p.name, {}) for concept in heard]
            passes.append(replace(p, bias=scene.bias, streams=streams))
        return passes

    def _concept(self, run: Run, k: int, elsewhere: tuple[float, ...]) -> Concept:
        shares = [float(j == k) or share for j, share in enumerate(elsewhere)]
        said, texts = self._said(run, k)
        cond = run.encode(texts, run.encoder_weights(shares))
        uncond = run.text(shares).uncond
        at = zip(cond.tokens, texts, strict=True)
        return Concept(
            run.adapters.names[k],
            {"cond": cond} if uncond is None else {"cond": cond, "uncond": uncond},
            tuple(_positions(tokens, text, said) for tokens, text in at),
            Gate.all(run.scaled(shares)),
            run.regions[k : k + 1],
        )

    def _said(self, run: Run, k: int) -> tuple[str, list[str]]:
        """The words of adapter `k`, and what its region listens to, for every image."""
        adapter = run.adapters.adapters[k]
        said = phrase(adapter, run.prompts)
        if self.local == "phrase":
            return said, [said] * run.images
        others = [t for j in _active(run) if j != k for t in run.adapters.adapters[j].triggers]
        texts = [without_triggers(prompt, others) for prompt in run.prompts]
        if all(occurrences(text, said) for text in texts):
            return said, texts
        return phrase(replace(adapter, class_word=""), run.prompts), texts


def _active(run: Run) -> list[int]:
    """Adapters that have a region and a weight."""
    return [k for k, w in enumerate(run.weights) if run.placed[k] and w != 0]


def _positions(tokens: Sequence[Token], text: str, said: str) -> tuple[tuple[int, ...], ...]:
    """Text positions of each word of a phrase, where the phrase stands as a whole."""
    whole = set(find(tokens, text, said))
    words = dict.fromkeys(plain_text(said).split())
    return tuple(tuple(sorted(whole.intersection(find(tokens, text, w)))) for w in words)
