"""What the engine tests share: a tiny composer, adapters written to files, and the stock answer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from compose.adapters.formats import load_adapter
from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.method import CompositionMethod
from compose.models.detect import family_of
from compose.models.family import SCHEDULERS
from compose.regions import Box, Mask, Region
from compose.request import AdapterUse, Request
from compose.types import Size
from tests.tiny import TEXT, random_adapter_file, tiny_pipeline

SIZE = Size(48, 32)  # not square
TRIGGERS = ("mochi", "biscuit", "sunvo")
PROMPT = "mochi cat and biscuit dog, sunvo style"
EVERYWHERE = Box(0, 0, 1, 1)
PLACES: Mapping[str, Region] = {
    "a0": Box(0, 0, 0.6, 1),
    "a1": Mask(3, 2, bytes([0, 128, 255, 64, 255, 255])),
}
"""Where adapter files belong, by their names; what is not listed acts everywhere."""


def composer(
    dtype: torch.dtype = torch.float32, *, pipe: DiffusionPipeline | None = None, **options: Any
) -> Composer:
    """A composer over a pipeline of random weights; None for a tiny Stable Diffusion 1.x."""
    pipe = pipe or tiny_pipeline()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, dtype)
    return Composer(family_of(pipe), AdapterLibrary(()), **options)


def files(
    folder: Path, ranks: Sequence[int] = (2, 5, 3), layout: str = "kohya", **options: Any
) -> list[Path]:
    """Adapters of unequal ranks and alphas, with non-zero factors."""
    out = []
    for k, rank in enumerate(ranks):
        path = folder / f"a{k}.safetensors"
        how = {"rank": rank, "alpha": rank / (k + 1), "seed": k, "text": TEXT, **options}
        how = {"trigger": TRIGGERS[k % len(TRIGGERS)], **how}
        random_adapter_file(path, layout=layout, **how)
        out.append(path)
    return out


def request(
    paths: Sequence[Path],
    weights: Sequence[float],
    method: CompositionMethod,
    regions: Mapping[str, Region] = PLACES,
    **more: Any,
) -> Request:
    """A request with the adapters of some files, placed where the method needs it."""
    there = regions if "regions" in method.needs else {}
    uses = tuple(
        AdapterUse(str(p), w, region=there.get(p.stem)) for p, w in zip(paths, weights, strict=True)
    )
    defaults: dict[str, Any] = {
        "steps": 4,
        "guidance": 5.0,
        "size": SIZE,
        "seeds": (3,),
        "negative": "dog",
    }
    return Request(PROMPT, adapters=uses, method=method, **{**defaults, **more})


def latents(composer: Composer, asked: Request) -> torch.Tensor:
    return composer.latents(composer.prepare(asked))[0]


def stock(pipe: Any, asked: Request, output: str = "latent", **more: Any) -> Any:
    """The same request through the unmodified diffusers pipeline; further arguments are its own.

    An empty negative prompt is none at all.
    """
    if asked.scheduler is not None:
        pipe = copy.copy(pipe)
        pipe.scheduler = SCHEDULERS[asked.scheduler].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    size = asked.size or SIZE
    arguments: dict[str, Any] = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative or None,
        "num_inference_steps": asked.steps,
        "guidance_scale": asked.guidance,
        "width": size.width,
        "height": size.height,
        "generator": torch.Generator("cpu").manual_seed(asked.seeds[0]),
        "output_type": output,
    }
    out = pipe(**{**arguments, **more})
    return out.images if output == "latent" else out.images[0]


def merged_pipeline(composer: Composer, paths: Sequence[Path], weights: Sequence[float]) -> Any:
    """A pipeline whose weights carry the adapters, text encoders included."""
    pipe = copy.deepcopy(composer.family.pipe)
    for path, weight in zip(paths, weights, strict=True):
        adapter, _ = load_adapter(path, composer.family.components)
        for site, factors in adapter.factors.items():
            component, _, module = site.partition(".")
            target = getattr(pipe, component).get_submodule(module)
            target.weight.data += weight * factors.delta().reshape(target.weight.shape).to(
                target.weight
            )
    return pipe


def assert_close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """The largest difference is within a share of the largest value."""
    scale = float(expected.abs().max())
    assert float((got - expected).abs().max()) <= tolerance * scale
