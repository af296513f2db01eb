"""What the tests of joint-attention transformers share: tiny models, and the stock answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.fusion.merge import Merge
from compose.models.detect import family_of
from compose.request import Request
from tests import engine, tiny_flux, tiny_sd3
from tests.tiny import random_adapter_file

PEFT = ("transformer", "text_encoder", "text_encoder_2")
"""Components whose adapters the stock pipelines load; FLUX only the first two."""


@dataclass(frozen=True)
class Model:
    """A tiny model and how it is asked.

    Attributes:
        build: makes the pipeline.
        sites: component to the module paths that adapters change.
        peft: components whose adapters the stock pipeline can load.
        asked: fields of a request.
    """

    build: Callable[[], DiffusionPipeline]
    sites: Mapping[str, Sequence[str]]
    peft: tuple[str, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)

    def composer(self, **options: Any) -> Composer:
        return Composer(family_of(self.build()), AdapterLibrary(()), **options)

    def files(
        self, folder: Path, ranks: Sequence[int] = (2, 5, 3), only: Sequence[str] | None = None
    ) -> list[Path]:
        """Adapters of unequal ranks, of all components or of some."""
        pipe = self.build()
        chosen = {n: paths for n, paths in self.sites.items() if only is None or n in only}
        return [
            random_adapter_file(
                folder / f"a{k}.safetensors",
                layout="diffusers",
                rank=rank,
                seed=k,
                pipe=pipe,
                modules=chosen,
            )
            for k, rank in enumerate(ranks)
        ]

    def request(
        self, paths: Sequence[Path] = (), weights: Sequence[float] = (), **more: Any
    ) -> Request:
        method = more.pop("method", Merge())
        return engine.request(paths, weights, method, **{**self.asked, **more})


_SD3, _FLUX = tiny_sd3.SITES, tiny_flux.SITES
_MEDIUM = {
    **{name: paths for name, paths in _SD3.items() if name != "text_encoder_3"},
    "transformer": _SD3["transformer"] + tiny_sd3.DUAL,
}
MODELS = {
    "sd3": Model(tiny_sd3.tiny_sd3, _SD3, PEFT),
    "medium": Model(lambda: tiny_sd3.tiny_sd3(medium=True, t5=False), _MEDIUM, PEFT),
    "dev": Model(tiny_flux.tiny_flux, _FLUX, PEFT[:2], {"guidance": 2.5, "negative": ""}),
    "schnell": Model(
        lambda: tiny_flux.tiny_flux(schnell=True),
        _FLUX,
        PEFT[:2],
        {"guidance": None, "true_cfg": 4.0},
    ),
}
"""Stable Diffusion 3, 3.5 medium without T5, FLUX dev, and schnell with true CFG."""


def stock(pipe: Any, asked: Request, output: str = "latent") -> Any:
    """The same request through the unmodified diffusers pipeline: [1, C, H, W] latents or a
    picture.
    """
    more: dict[str, Any] = {} if asked.guidance is None else {"guidance_scale": asked.guidance}
    if isinstance(pipe, FluxPipeline):
        more["true_cfg_scale"] = asked.true_cfg or 1.0
        more["max_sequence_length"] = 512 if pipe.transformer.config.guidance_embeds else 256
    if asked.scheduler is not None:
        kind = family_of(pipe).schedulers[asked.scheduler]
        pipe = copy.copy(pipe)
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
    size = asked.size or engine.SIZE
    out = pipe(
        asked.prompt,
        negative_prompt=asked.negative,
        num_inference_steps=asked.steps,
        width=size.width,
        height=size.height,
        generator=torch.Generator("cpu").manual_seed(asked.seeds[0]),
        output_type=output,
        **more,
    ).images
    if output == "pil":
        return out[0]
    if isinstance(pipe, FluxPipeline):
        return pipe._unpack_latents(out, size.height, size.width, pipe.vae_scale_factor)
    return out


def latents(composer: Composer, asked: Request) -> Tensor:
    return engine.latents(composer, asked)
