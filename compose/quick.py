"""The one-line form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.composer import Composer
from compose.fusion import method as method_named
from compose.method import CompositionMethod
from compose.models.detect import EMBEDDED
from compose.models.options import USUAL, LoadOptions
from compose.request import AdapterUse, Request
from compose.result import Result


def generate(
    prompt: str,
    adapters: Mapping[str, float] | None = None,
    *,
    method: str | CompositionMethod = "merge",
    model: str = EMBEDDED,
    seed: int = 0,
    count: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    options: LoadOptions = USUAL,
    **request: Any,
) -> Result:
    """Load a model and make pictures. To make many, keep a `Composer` and give it requests.

    Args:
        prompt: what to draw, with the adapters' trigger words.
        adapters: name in the library, or file, to weight.
        method: name of a composition method, or an instance with its parameters.
        model: "embedded", a folder in diffusers layout, or a .safetensors file with a whole model.
        seed: of the first picture; the next one has the next seed.
        count: how many pictures.
        device, dtype, options: as for `Composer.load`.
        **request: further fields of `Request`: negative, size, steps, guidance, scheduler.

    Raises:
        ComposeError: something that was asked for cannot be done; the message says what to do.
    """
    uses = tuple(AdapterUse(name, weight) for name, weight in (adapters or {}).items())
    chosen = method_named(method)() if isinstance(method, str) else method
    asked = Request(
        prompt, adapters=uses, method=chosen, seeds=tuple(range(seed, seed + count)), **request
    )
    with Composer.load(model, device=device, dtype=dtype, options=options) as composer:
        return composer.generate(asked)
