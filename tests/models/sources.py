"""What the tests of loading share: devices, and the picture that a model draws."""

from __future__ import annotations

from pathlib import Path

import torch

from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.fusion.merge import Merge
from compose.models.options import LoadOptions
from tests import engine

CPU = torch.device("cpu")
GPU = torch.device("cuda")
"""Never reached where there is none: what it is used for is refused before anything is loaded."""


def picture(model: Path, paths: list[Path], **options: object) -> bytes:
    loaded = Composer.load(
        str(model), device="cpu", options=LoadOptions(**options), library=AdapterLibrary(())
    )
    with loaded as composer:
        asked = engine.request(paths, [0.8, -0.5, 0.6], Merge(), steps=2)
        return composer.generate(asked).images[0].image.tobytes()
