"""The passes of a step without one of the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compose.gate import Gate
from compose.passes import Pass
from compose.types import Conditioning

if TYPE_CHECKING:
    from compose.run import Run


def acts(p: Pass, k: int) -> bool:
    """Whether adapter `k` changes anything in a pass: by its gate, or by what the text became."""
    made = p.conditioning.origin
    spoken = made is not None and made.weights[k] != 0
    return spoken or k in p.gate.active


def gate_without(gate: Gate, k: int) -> Gate:
    """The gate with the column of adapter `k` zero."""
    weight = gate.weight.clone()
    weight[:, k] = 0
    return replace(gate, weight=weight)


class Without:
    """Leaves adapters out of the passes of one run.

    Texts are encoded without an adapter once, however many steps ask for them.

    Attributes:
        kept: adapters whose text-encoder part could not be left out of every pass, since a method
            put the embeddings there together itself.
    """

    def __init__(self) -> None:
        self.kept: set[int] = set()
        self._texts: dict[tuple[tuple[str, ...], tuple[float, ...], bool], Conditioning] = {}

    def passes(self, run: Run, passes: Sequence[Pass], k: int) -> list[Pass]:
        """Those passes in which adapter `k` acts, as they are without it, under the same names.

        Its column of the gate is zero and its text-encoder part off. Masks, biases and the parts
        of other adapters stay; attention is not captured.
        """
        return [
            Pass(p.name, self._text(run, p.conditioning, k), gate_without(p.gate, k), bias=p.bias)
            for p in passes
            if acts(p, k)
        ]

    def _text(self, run: Run, conditioning: Conditioning, k: int) -> Conditioning:
        made = conditioning.origin
        if made is None:
            if run.encoder_weights([1.0] * len(run.adapters))[k] != 0:
                self.kept.add(k)
            return conditioning
        if made.weights[k] == 0:
            return conditioning
        weights = tuple(0.0 if j == k else w for j, w in enumerate(made.weights))
        key = (made.prompts, weights, made.negative)
        if key not in self._texts:
            self._texts[key] = run.encode(made.prompts, weights, negative=made.negative)
        return self._texts[key]
