"""Pictures from the stock diffusers pipeline: measures independent of our own engine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose.errors import AdapterNotFoundError, ModelError, RequestError, nearest

SCHEDULERS = ("own", "ddim", "dpm++")


@dataclass(frozen=True)
class Sampling:
    """How pictures are made.

    Attributes:
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        scheduler: one of `SCHEDULERS`; "own" is the one of the model folder.
        batch: prompts at once.
    """

    steps: int = 20
    guidance: float = 4.0
    scheduler: str = "own"
    batch: int = 96


def load_pipeline(folder: Path, device: torch.device, scheduler: str = "own") -> Any:
    """The stock `StableDiffusionPipeline` of a folder, in single precision.

    Raises:
        ModelError: when the folder holds no pipeline.
        RequestError: for an unknown scheduler.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"no pipeline in {folder}, expected a diffusers folder with model_index.json; "
            "train the base"
        )
    if scheduler not in SCHEDULERS:
        raise RequestError(
            f"scheduler {scheduler!r} is not known; {nearest(scheduler, SCHEDULERS)}"
        )
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    other = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}.get(scheduler)
    if other is not None:
        pipe.scheduler = other.from_config(pipe.scheduler.config)
    return pipe


def find_adapter(folder: Path, name: str) -> Path:
    """The file of a named adapter.

    Raises:
        AdapterNotFoundError: when there is none.
    """
    for path in (
        folder / f"{name}.safetensors",
        folder / name / "pytorch_lora_weights.safetensors",
    ):
        if path.is_file():
            return path
    known = [path.stem for path in folder.glob("*.safetensors")]
    raise AdapterNotFoundError(f"no adapter {name!r} in {folder}; {nearest(name, known)}")


def load_adapters(pipe: Any, folder: Path, names: Sequence[str]) -> None:
    """Load adapters under their names, none of them active."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Already found a `peft_config`"
        )  # several is what is wanted
        for name in names:
            path = find_adapter(folder, name)
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
    if names:
        pipe.disable_lora()


def use(pipe: Any, weights: Mapping[str, float]) -> None:
    """Sum exactly these loaded adapters with these weights; none for the bare model."""
    if not weights:
        if pipe.get_list_adapters():
            pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters(list(weights), list(weights.values()))


@torch.inference_mode()
def generate(pipe: Any, prompts: Sequence[str], sampling: Sampling, seed: int = 0) -> Tensor:
    """Pictures for prompts; the noise of each depends on the seed and its number only.

    Returns:
        [N, 3, 128, 128] in [0, 1], single precision, on the CPU.
    """
    made: list[Tensor] = []
    shape = (
        pipe.unet.config.in_channels,
        pipe.unet.config.sample_size,
        pipe.unet.config.sample_size,
    )
    for start in range(0, len(prompts), sampling.batch):
        part = list(prompts[start : start + sampling.batch])
        noise = torch.stack(
            [
                torch.randn(
                    shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + start + i)
                )
                for i in range(len(part))
            ]
        )
        result = pipe(
            part,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            latents=noise.to(pipe.unet.device, pipe.unet.dtype),
            output_type="pt",
        )
        made.append(result.images.float().cpu())
    return torch.cat(made)
