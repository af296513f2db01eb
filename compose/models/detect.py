"""Find a base model and tell its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from compose.errors import ModelError
from compose.models.card import ModelCard, read_card
from compose.models.family import Family
from compose.models.flux import Flux
from compose.models.sd3 import StableDiffusion3
from compose.models.sd15 import StableDiffusion15
from compose.models.sdxl import StableDiffusionXL

EMBEDDED = "embedded"
_FAMILIES: tuple[tuple[type[DiffusionPipeline], type[Family]], ...] = (
    (StableDiffusionPipeline, StableDiffusion15),
    (StableDiffusionXLPipeline, StableDiffusionXL),
    (StableDiffusion3Pipeline, StableDiffusion3),
    (FluxPipeline, Flux),
)
_REFUSED = {
    "StableDiffusionXLImg2ImgPipeline": "an image-to-image pipeline such as the SDXL refiner, not a"
    " text-to-image base, so use the base that it refines",
}


def embedded_folder() -> Path:
    """Where the model that ships with the package lies."""
    return Path(__file__).parents[1] / "world" / "weights"


def family_of(pipe: DiffusionPipeline, card: ModelCard | None = None) -> Family:
    """The family of a pipeline, with what the model says about itself.

    Raises:
        ModelError: none that is supported, or parts that are not for text to image.
    """
    for pipeline, family in _FAMILIES:
        if type(pipe) is pipeline:
            found = family(pipe, card)
            found.check_text_to_image()
            return found
    raise _unsupported("was given", type(pipe).__name__)


def model_folder(model: str) -> Path:
    """The folder of a model named on the command line.

    Args:
        model: "embedded" or a folder in diffusers layout.

    Raises:
        ModelError: there is no such folder, or it holds no pipeline of a supported family.
    """
    folder = embedded_folder() if model == EMBEDDED else Path(model)
    index = folder / "model_index.json"
    if not index.is_file():
        hint = (
            "the package was installed without its weights"
            if model == EMBEDDED
            else "give a diffusers folder"
        )
        raise ModelError(f"no model at {folder}: expected a folder with a model_index.json; {hint}")
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{index} is not a pipeline description: expected JSON with _class_name ({error})"
        ) from None
    if name not in [p.__name__ for p, _ in _FAMILIES]:
        raise _unsupported(f"lies in {folder}", name)
    return folder


def _unsupported(where: str, name: str) -> ModelError:
    supported = ", ".join(p.__name__ for p, _ in _FAMILIES)
    why = f" ({_REFUSED[name]})" if name in _REFUSED else ""
    return ModelError(f"a {name}{why} {where}; expected one of {supported}")


def _classes(folder: Path) -> tuple[type[DiffusionPipeline], type[Family]]:
    """Pipeline and family of a folder that `model_folder` has found good."""
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    return next(pair for pair in _FAMILIES if pair[0].__name__ == name)


def family_name(folder: Path) -> str:
    """Name of the family of a folder that `model_folder` has found good."""
    return _classes(folder)[1].name


def load(model: str, *, device: torch.device, dtype: torch.dtype) -> Family:
    """Load a base model from disk. Nothing is downloaded.

    Args:
        model: "embedded" or a folder in diffusers layout.
        device: where to put it.
        dtype: of its weights.

    Raises:
        ModelError: missing, broken or of an unsupported family.
    """
    folder = model_folder(model)
    pipeline, family = _classes(folder)
    index = json.loads((folder / "model_index.json").read_text())
    absent: dict[str, Any] = {name: None for name, part in index.items() if part == [None, None]}
    try:
        pipe = pipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, **{**absent, **family.load_options}
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{folder} could not be loaded: {first}; expected a complete diffusers folder"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return family_of(pipe.to(device), read_card(folder))
