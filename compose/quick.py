"""The one-line form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.composer import Composer
from compose.fusion import method as method_named
from compose.method import CompositionMethod
from compose.models.detect import EMBEDDED
from compose.models.options import USUAL, LoadOptions
from compose.regions import Region
from compose.request import AdapterUse, Request, placed
from compose.result import Result


def generate(
    prompt: str,
    adapters: Mapping[str, float] | None = None,
    *,
    method: str | CompositionMethod = "merge",
    regions: Mapping[str, Region] | None = None,
    model: str = EMBEDDED,
    seed: int = 0,
    count: int = 1,
    explain: bool = False,
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
        regions: name of an adapter to where it belongs, for methods that place adapters.
        model: "embedded", a folder in diffusers layout, or a .safetensors file with a whole model.
        seed: of the first picture; the next one has the next seed.
        count: how many pictures.
        explain: whether they tell what each adapter did, in `ComposedImage.explanation`.
        device, dtype, options: as for `Composer.load`.
        **request: further fields of `Request`: negative, size, steps, guidance, scheduler.

    Raises:
        ComposeError: something that was asked for cannot be done; the message says what to do.
    """
    uses = [AdapterUse(name, weight) for name, weight in (adapters or {}).items()]
    chosen = method_named(method)() if isinstance(method, str) else method
    seeds = tuple(range(seed, seed + count))
    there = placed(uses, regions or {})
    asked = Request(prompt, adapters=there, method=chosen, seeds=seeds, **request)
    with Composer.load(model, device=device, dtype=dtype, options=options) as composer:
        return composer.generate(asked, explain=explain)
