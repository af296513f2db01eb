"""A tiny model of every family, and adapters that reach all of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from compose.method import CompositionMethod
from compose.request import Request
from tests import engine, tiny, tiny_flux, tiny_sd3, tiny_sdxl


@dataclass(frozen=True)
class TinyFamily:
    """A tiny model and how it is asked.

    Attributes:
        build: makes the pipeline.
        sites: component to the module paths that adapters change.
        asked: fields of a request.
    """

    build: Callable[[], DiffusionPipeline]
    sites: Mapping[str, Sequence[str]]
    asked: Mapping[str, Any] = field(default_factory=dict)

    def files(self, folder: Path, ranks: Sequence[int] = (2, 5, 3)) -> list[Path]:
        """Adapters of unequal ranks whose triggers are in the prompt of `engine.request`."""
        pipe = self.build()
        return [
            tiny.random_adapter_file(
                folder / f"a{k}.safetensors",
                layout="diffusers",
                rank=rank,
                seed=k,
                pipe=pipe,
                modules=self.sites,
                trigger=engine.TRIGGERS[k],
            )
            for k, rank in enumerate(ranks)
        ]

    def request(
        self,
        paths: Sequence[Path],
        weights: Sequence[float],
        method: CompositionMethod,
        **more: Any,
    ) -> Request:
        """As `engine.request`."""
        return engine.request(paths, weights, method, **{**self.asked, **more})


FAMILIES: Mapping[str, TinyFamily] = {
    "sd15": TinyFamily(
        tiny.tiny_pipeline,
        {"unet": tiny.ATTENTION + tiny.CONVOLUTIONS, "text_encoder": tiny.TEXT},
    ),
    "sdxl": TinyFamily(tiny_sdxl.tiny_sdxl, tiny_sdxl.EVERYWHERE),
    "sd3": TinyFamily(tiny_sd3.tiny_sd3, tiny_sd3.SITES),
    "flux": TinyFamily(tiny_flux.tiny_flux, tiny_flux.SITES, {"guidance": 2.5, "true_cfg": 3.0}),
}
