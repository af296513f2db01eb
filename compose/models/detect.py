"""Find a base model and tell its family."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from compose.errors import ModelError
from compose.models.card import ModelCard, read_card
from compose.models.family import Family
from compose.models.sd15 import StableDiffusion15

EMBEDDED = "embedded"
_FAMILIES: tuple[tuple[type[DiffusionPipeline], type[Family]], ...] = (
    (StableDiffusionPipeline, StableDiffusion15),
)


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
    supported = ", ".join(p.__name__ for p, _ in _FAMILIES)
    raise ModelError(f"a {type(pipe).__name__} is not supported; expected one of {supported}")


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
    supported = [p.__name__ for p, _ in _FAMILIES]
    if name not in supported:
        raise ModelError(f"{folder} holds a {name}; expected one of {', '.join(supported)}")
    return folder


def family_name(folder: Path) -> str:
    """Name of the family of a folder that `model_folder` has found good."""
    index = json.loads((folder / "model_index.json").read_text())
    return {p.__name__: family.name for p, family in _FAMILIES}[index["_class_name"]]


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
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{folder} could not be loaded: {first}; expected a complete diffusers folder"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return family_of(pipe.to(device), read_card(folder))
