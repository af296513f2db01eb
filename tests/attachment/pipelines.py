"""Tiny pipelines of every class that a method can be attached to, how to call them, and PEFT doing
what the methods do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
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
    UNet2DConditionModel,
)
from PIL import Image
from torch import nn

import compose
from compose.adapters.library import AdapterLibrary
from compose.attachment.pipelines import kind_of
from compose.composer import Composer
from compose.method import CompositionMethod
from tests import engine
from tests.tiny import SIDE, tiny_pipeline
from tests.tiny_sdxl import tiny_sdxl

PIXELS = 2 * SIDE
WEIGHTS = (1.0, -0.5, 0.8)
PROMPT, NEGATIVE = "mochi cat and biscuit dog", "dog"


def picture(seed: int) -> Image.Image:
    """A picture of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8))


def mask() -> Image.Image:
    """The left half."""
    half = np.zeros((PIXELS, PIXELS), dtype=np.uint8)
    half[:, : PIXELS // 2] = 255
    return Image.fromarray(half)


def generators(*seeds: int) -> list[torch.Generator]:
    """One for each image."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet of random weights; diffusers makes one that changes nothing at first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
        for name, weights in net.named_parameters():
            if name.startswith("controlnet_"):
                torch.nn.init.normal_(weights, std=0.3)
    return net.eval().requires_grad_(False)


def changed_unet(unet: UNet2DConditionModel, **changes: Any) -> UNet2DConditionModel:
    """A UNet of random weights, of a slightly different build."""
    config = {n: v for n, v in unet.config.items() if not n.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return UNet2DConditionModel(**{**config, **changes}).eval().requires_grad_(False)


_CLASSES: Mapping[str, type[Any]] = {
    "text": StableDiffusionPipeline,
    "img2img": StableDiffusionImg2ImgPipeline,
    "inpaint": StableDiffusionInpaintPipeline,
    "inpaint9": StableDiffusionInpaintPipeline,
    "controlnet": StableDiffusionControlNetPipeline,
    "controlnet_img2img": StableDiffusionControlNetImg2ImgPipeline,
    "controlnet_inpaint": StableDiffusionControlNetInpaintPipeline,
    "xl": StableDiffusionXLPipeline,
    "xl_img2img": StableDiffusionXLImg2ImgPipeline,
    "xl_inpaint": StableDiffusionXLInpaintPipeline,
    "xl_controlnet": StableDiffusionXLControlNetPipeline,
    "xl_controlnet_img2img": StableDiffusionXLControlNetImg2ImgPipeline,
    "xl_controlnet_inpaint": StableDiffusionXLControlNetInpaintPipeline,
}
KINDS = tuple(kind for kind in _CLASSES if not kind.startswith("xl"))
XL_KINDS = tuple(kind for kind in _CLASSES if kind.startswith("xl"))


def pipeline(kind: str) -> Any:
    """A pipeline of random weights."""
    xl = kind in XL_KINDS
    parts = (tiny_sdxl() if xl else tiny_pipeline()).components
    if kind == "inpaint9":
        parts["unet"] = changed_unet(parts["unet"], in_channels=9)  # with mask and masked picture
    if "controlnet" in kind:
        parts["controlnet"] = controlnet(parts["unet"])
    options = {"add_watermarker": False} if xl else {"requires_safety_checker": False}
    pipe = _CLASSES[kind](**parts, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(kind: str, pipe: Any, **more: Any) -> torch.Tensor:
    """Final latents of a short run: 4 steps, or those that a start from a picture leaves of 6."""
    inputs: dict[str, Any] = {}
    if "img2img" in kind or "inpaint" in kind:
        inputs |= {"image": picture(1), "strength": 0.7, "num_inference_steps": 6}
    if "inpaint" in kind:
        inputs |= {"mask_image": mask()}
    if "controlnet" in kind:
        inputs |= {"control_image" if "image" in inputs else "image": picture(2)}
    defaults = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "generator": torch.Generator().manual_seed(3),
        "output_type": "latent",
    }
    latents: torch.Tensor = pipe(**{**defaults, **inputs, **more}).images
    return latents


def attach(
    pipe: Any,
    paths: Sequence[Path],
    method: CompositionMethod,
    *,
    text_weight: float | None = None,
    **more: Any,
) -> compose.Attached:
    """Attach adapter files at `WEIGHTS`."""
    uses = [
        compose.AdapterUse(str(path), weight, text_weight)
        for path, weight in zip(paths, WEIGHTS, strict=False)
    ]
    return compose.attach(pipe, uses, method, library=AdapterLibrary(()), **more)


def composer(pipe: Any) -> Composer:
    """A composer over the parts of any pipeline, which need not be able to run."""
    return Composer(kind_of(pipe).family(pipe), AdapterLibrary(()))


def denoisers(pipe: Any, paths: Sequence[Path]) -> list[nn.Module]:
    """The denoiser of a pipeline, once for each adapter, merged into its weights."""
    return [
        engine.merged_pipeline(composer(pipe), [path], [weight]).unet
        for path, weight in zip(paths, WEIGHTS, strict=False)
    ]


def averaging(unets: Sequence[nn.Module]) -> Any:
    """A forward that is the mean of several denoisers'."""
    return lambda *args, **kwargs: (torch.stack([u(*args, **kwargs)[0] for u in unets]).mean(0),)


def with_peft(pipe: Any, paths: Sequence[Path]) -> Any:
    """A copy of a pipeline with adapters loaded the stock way, named a0, a1 and so on."""
    copied = copy.deepcopy(pipe)
    for k, path in enumerate(paths):
        copied.load_lora_weights(str(path), adapter_name=f"a{k}")
    return copied


Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


def switching(weights: Sequence[float], turn: Callable[[int], int]) -> Callback:
    """A `callback_on_step_end` that switches adapters: LoRA Switch the stock way.

    It runs after a step, so what it sets acts from the next step on. Each adapter's text-encoder
    part acts with it: the prompt is encoded again.

    Args:
        weights: of the adapters a0, a1, ...
        turn: which adapter acts after a number of steps.
    """

    def callback(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        del t, tensors
        k = turn(step + 1)
        pipe.set_adapters([f"a{k}"], [weights[k]])
        guided = pipe.do_classifier_free_guidance
        cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, guided, NEGATIVE)
        return {"prompt_embeds": torch.cat([uncond, cond]) if guided else cond}

    return callback


def peft_switch(
    kind: str, pipe: Any, weights: Sequence[float], turn: Callable[[int], int], **more: Any
) -> torch.Tensor:
    """LoRA Switch by PEFT and a callback, in a pipeline of `with_peft`."""
    pipe.set_adapters([f"a{turn(0)}"], [weights[turn(0)]])
    inputs = {
        "callback_on_step_end": switching(weights, turn),
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    return call(kind, pipe, **inputs, **more)
