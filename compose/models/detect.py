"""Which families there are, and where base models lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers import DiffusionPipeline

from compose.errors import ModelError
from compose.models.card import ModelCard
from compose.models.family import Family
from compose.models.flux import Flux
from compose.models.folder import Pipeline, read_pipeline
from compose.models.sd3 import StableDiffusion3
from compose.models.sd15 import StableDiffusion15
from compose.models.sdxl import StableDiffusionXL

EMBEDDED = "embedded"
FAMILIES: Mapping[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion15,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""Class name of a diffusers pipeline to the family over it. A new family is one line here: folders,
the hub, refusals and the list of models follow it. docs/add_a_family.md says what else there is."""
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
    family = family_named(type(pipe).__name__, "the pipeline")(pipe, card)
    family.check_text_to_image()
    return family


def family_named(pipeline: str, what: str) -> type[Family]:
    """The family of a kind of pipeline.

    Args:
        pipeline: class name.
        what: that is of this kind, for the message.

    Raises:
        ModelError: none that is supported.
    """
    if pipeline not in FAMILIES:
        why = _REFUSED.get(pipeline, "which is not supported")
        raise ModelError(f"{what} is a {pipeline}, {why}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[pipeline]


def model_pipeline(model: str) -> Pipeline:
    """The folder of a model named on the command line, known by its index.

    Args:
        model: "embedded" or a folder in diffusers layout.

    Raises:
        ModelError: there is no such folder, or it holds no pipeline of a supported family.
    """
    folder = embedded_folder() if model == EMBEDDED else Path(model)
    if model == EMBEDDED and not folder.is_dir():
        raise ModelError(
            f"no model at {folder}: the package was installed without its weights; expected them"
            " there, so install it again"
        )
    pipeline = read_pipeline(folder)
    family_named(pipeline.name, str(folder))
    return pipeline


def model_folder(model: str) -> Path:
    """Where such a model lies; arguments and errors as of `model_pipeline`."""
    return model_pipeline(model).folder
