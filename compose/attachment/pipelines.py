"""Which pipelines a method can be attached to, and how they call their denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from diffusers import (
    DiffusionPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

from compose.errors import ModelError
from compose.models.family import Family
from compose.models.sd15 import StableDiffusion15
from compose.models.sdxl import StableDiffusionXL


@dataclass(frozen=True)
class Inputs:
    """What pipelines hand to their denoiser: once a step, the rows of the negative prompt before
    those of the prompt when there is guidance.

    Attributes:
        latents, timestep: names of these inputs.
        rows: names of inputs with a leading row axis, which may lie in lists and dicts.
        shared: names of inputs that all rows have in common.
        options: name of the shared input in which a user can ask for a LoRA scale.
        texts: name of an input that comes from the prompt, on its own or inside a dict, to the
            positions of the prompt's and the negative prompt's in what `encode_prompt` returns. The
            first one holds token embeddings [rows, T, D].
    """

    latents: str
    timestep: str
    rows: frozenset[str]
    shared: frozenset[str]
    options: str
    texts: Mapping[str, tuple[int, int]]

    @property
    def main_text(self) -> str:
        """Name of the input with the token embeddings."""
        return next(iter(self.texts))


@dataclass(frozen=True)
class Kind:
    """Pipelines over one family.

    Attributes:
        family: whose sites and token layout they have.
        inputs: how they call the denoiser.
        pipelines: the classes.
    """

    family: type[Family]
    inputs: Inputs
    pipelines: tuple[type[DiffusionPipeline], ...]


UNET = Inputs(
    latents="sample",
    timestep="timestep",
    rows=frozenset(
        {
            *("sample", "timestep", "timestep_cond", "encoder_hidden_states", "class_labels"),
            *("attention_mask", "encoder_attention_mask", "added_cond_kwargs"),
            *("down_block_additional_residuals", "mid_block_additional_residual"),
            "down_intrablock_additional_residuals",
        }
    ),
    shared=frozenset({"cross_attention_kwargs", "return_dict"}),
    options="cross_attention_kwargs",
    texts={"encoder_hidden_states": (0, 1)},
)

KINDS = (
    Kind(
        StableDiffusion15,
        UNET,
        (
            StableDiffusionPipeline,
            StableDiffusionImg2ImgPipeline,
            StableDiffusionInpaintPipeline,
            StableDiffusionControlNetPipeline,
            StableDiffusionControlNetImg2ImgPipeline,
            StableDiffusionControlNetInpaintPipeline,
        ),
    ),
    Kind(
        StableDiffusionXL,
        replace(UNET, texts={"encoder_hidden_states": (0, 1), "text_embeds": (2, 3)}),
        (
            StableDiffusionXLPipeline,
            StableDiffusionXLImg2ImgPipeline,
            StableDiffusionXLInpaintPipeline,
            StableDiffusionXLControlNetPipeline,
            StableDiffusionXLControlNetImg2ImgPipeline,
            StableDiffusionXLControlNetInpaintPipeline,
        ),
    ),
)


def kind_of(pipe: DiffusionPipeline) -> Kind:
    """The kind of a pipeline.

    Raises:
        ModelError: none that is supported.
    """
    for kind in KINDS:
        if type(pipe) in kind.pipelines:
            return kind
    known = ", ".join(p.__name__ for kind in KINDS for p in kind.pipelines)
    raise ModelError(f"a {type(pipe).__name__} cannot be attached to; expected one of {known}")
