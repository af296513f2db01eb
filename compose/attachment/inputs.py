"""The inputs of one denoiser call, and the same inputs for other rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from compose.attachment.pipelines import Inputs
from compose.errors import RequestError, ShapeError

Span = tuple[int, int]
"""First and last (exclusive) of some neighbouring rows."""


@dataclass(frozen=True)
class DenoiserCall:
    """What a pipeline hands to its denoiser.

    Attributes:
        inputs: what the names mean.
        given: name to value.
    """

    inputs: Inputs
    given: Mapping[str, Any]

    @classmethod
    def of(
        cls, inputs: Inputs, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Self:
        """Name the arguments of a call.

        Raises:
            RequestError: they ask for a LoRA scale, which would have no effect.
        """
        names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        call = cls(inputs, {**dict(zip(names, args, strict=False)), **kwargs})
        scale = (call.given.get(inputs.options) or {}).get("scale", 1.0)
        if scale != 1.0:
            raise RequestError(
                f"{inputs.options} asks for a LoRA scale of {scale}, which attached adapters do not"
                " read; expected none, so give the weights to compose.attach"
            )
        return call

    @property
    def latents(self) -> Tensor:
        """[rows, C, H, W], scaled; an inpainting denoiser has further channels."""
        found: Tensor = self.given[self.inputs.latents]
        return found

    @property
    def timestep(self) -> Any:
        """A number, or a tensor [] or [rows]."""
        return self.given[self.inputs.timestep]

    @property
    def rows(self) -> int:
        """Length of the row axis."""
        return self.latents.shape[0]

    @property
    def texts(self) -> dict[str, Tensor]:
        """Every input that comes from the prompt, [rows, ...]."""
        holders = [self.given, *(v for v in self.given.values() if isinstance(v, Mapping))]
        return {n: next(h[n] for h in holders if n in h) for n in self.inputs.texts}

    def at(self, spans: Sequence[Span], texts: Mapping[str, Tensor]) -> dict[str, Any]:
        """The inputs for other rows.

        Args:
            spans: rows of this call, which may be taken several times.
            texts: what to put in place of the inputs that come from the prompt, for these rows.

        Raises:
            ShapeError: an input does not have as many rows as the latents.
        """
        joined = _joined(spans)
        return {
            name: self._rows(name, value, joined, texts) if name in self.inputs.rows else value
            for name, value in self.given.items()
        }

    def _rows(
        self, name: str, value: Any, spans: Sequence[Span], texts: Mapping[str, Tensor]
    ) -> Any:
        if name in texts:
            return texts[name]
        if isinstance(value, Mapping):
            return {n: self._rows(n, v, spans, texts) for n, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._rows(name, v, spans, texts) for v in value)
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.shape[0] != self.rows:
            raise ShapeError(
                f"the denoiser was given {name} {list(value.shape)} beside latents of {self.rows}"
                f" rows; expected a leading axis of {self.rows}"
            )
        if spans == [(0, self.rows)]:
            return value
        return torch.cat([value[a:b] for a, b in spans])


def _joined(spans: Sequence[Span]) -> list[Span]:
    """The same rows in as few spans as possible."""
    out: list[Span] = []
    for start, stop in spans:
        if out and out[-1][1] == start:
            start = out.pop()[0]
        out.append((start, stop))
    return out
