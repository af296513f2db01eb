"""The adapters' text-encoder parts in a pipeline that encodes its prompt itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compose.attachment.hooks import Around, Talk
from compose.gate import Gate
from compose.models.family import Family
from compose.slot import GateSlot

Texts = Mapping[str, tuple[Tensor, Tensor | None]]
"""Name of a denoiser input to the prompt's and the negative prompt's, [images, ...] each; None
without guidance.
"""


class Prompts:
    """Encodes the prompt of a pipeline call again and again, under other gates.

    The pipeline itself encodes once a call, with every adapter's part at its full weight. A method
    that gives other shares, at some steps or in some passes, gets the same prompt encoded with
    those, as `compose.run.Run.text` does it. That needs the pipeline's `encode_prompt` to have made
    what the denoiser is given: embeddings that were made elsewhere stay as they are.

    Args:
        family: of the pipeline.
        slots: component name to gate slot.
        positions: of every text input in what `encode_prompt` returns, as of `Inputs.texts`.
        weights: [K] of the text-encoder parts; 0 for adapters without one.
        warn: tells the user that adapters' parts are not at the shares of the method.

    Attributes:
        asked: whether the pipeline has encoded a prompt; whoever reads it may take it back.
    """

    def __init__(
        self,
        family: Family,
        slots: Mapping[str, GateSlot],
        positions: Mapping[str, tuple[int, int]],
        weights: tuple[float, ...],
        warn: Callable[[str], None],
    ) -> None:
        self.asked = False
        self._pipe = family.pipe
        self._positions = positions
        self._weights = self._now = weights
        self._made: dict[tuple[float, ...], Sequence[Any]] = {}  # weights to encoded prompts
        self._warn = warn
        self._again: Callable[[], Sequence[Any]] | None = None  # None: there are no words
        self._encode: Callable[..., Sequence[Any]] = self._pipe.encode_prompt
        with ExitStack() as undo:
            for name in family.text_names:
                if name in family.components:
                    around = Around(family.components[name], partial(self._encoder, slots[name]))
                    undo.callback(around.close)
            undo.callback(_shadow(self._pipe, "encode_prompt", self._encode_prompt))
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Leave the pipeline as it was found."""
        self._undo.close()

    def under(self, weights: tuple[float, ...], own: Texts) -> Texts:
        """What the denoiser is to be given with the adapters' parts at weights [K].

        Args:
            weights: of the text-encoder parts.
            own: what the pipeline gives it.
        """
        if weights == self._weights:
            return own
        if self._again is None or not self._is_ours(own):
            self._warn(
                "the pipeline was given embeddings, or they were changed after it encoded the"
                " prompt, so the adapters' text-encoder parts cannot have shares of their own, as"
                " the method wants it: they act as they did when the embeddings were made; give"
                " prompt and negative_prompt as text, or the adapters a text weight of 0"
            )
            return own
        if getattr(self._pipe, "controlnet", None) is not None:
            self._warn(
                "the method gives the adapters' text-encoder parts shares of their own; the"
                " ControlNet, which runs once for all of them, reads the prompt with every part at"
                " its full weight"
            )
        if weights not in self._made:
            self._now = weights
            try:
                self._made[weights] = self._again()
            finally:
                self._now = self._weights
        return self._texts(self._made[weights], own)

    def _encode_prompt(self, *args: Any, **kwargs: Any) -> Sequence[Any]:
        """Stands in for the pipeline's method of that name."""
        self.asked = True
        again = partial(self._encode, *args, **kwargs)
        given = inspect.signature(self._encode).bind(*args, **kwargs).arguments
        ready = any(v is not None for name, v in given.items() if name.endswith("_embeds"))
        self._again = None if ready else again
        self._made = {self._weights: again()}
        return self._made[self._weights]

    def _encoder(self, slot: GateSlot, *args: Any, **kwargs: Any) -> Talk:
        """One call of a text encoder."""
        ids = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        with slot.hold(Gate.all(self._now).expand(ids.shape[0])):
            return (yield args, kwargs)

    def _is_ours(self, own: Texts) -> bool:
        """Whether the pipeline gives what `encode_prompt` made."""
        made = self._texts(self._made[self._weights], own)
        return all(
            _equal(ours, theirs)
            for name in own
            for ours, theirs in zip(made[name], own[name], strict=True)
        )

    def _texts(self, made: Sequence[Any], own: Texts) -> Texts:
        """What `encode_prompt` returned, by name of the input, with as many sides as `own`."""
        found: dict[str, tuple[Tensor, Tensor | None]] = {}
        for name, (cond, uncond) in self._positions.items():
            found[name] = (made[cond], None if own[name][1] is None else made[uncond])
        return found


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a, b)


def _shadow(thing: Any, name: str, value: Any) -> Callable[[], None]:
    """Put an attribute in front of the one that a thing's class has; returns what undoes it."""
    had, before = name in vars(thing), vars(thing).get(name)
    setattr(thing, name, value)
    return partial(setattr, thing, name, before) if had else partial(delattr, thing, name)
