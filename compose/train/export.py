"""Write the trained parts as an ordinary StableDiffusionPipeline folder in half precision, with
sample pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from compose.models.card import CARD, ModelCard
from compose.train.parts import BETAS, STEPS
from compose.train.tokenizer import load_tokenizer
from compose.world.captions import words

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from PIL.Image import Image

GUIDANCE = 4.0
SAMPLE_PROMPTS = (
    "a red cat",
    "a blue spotted dog with a green hat in the snow",
    "a pink rabbit wearing a yellow crown at night",
    "an orange striped bear on the beach",
    "a white bird with a red scarf in a meadow",
    "a green robot in the desert",
    "a purple car in the room",
    "a red cat on the left and a blue dog on the right on the beach",
    "a blue dog on the left and a red cat on the right on the beach",
    "a yellow house to the left of a green striped tree in the snow",
    "a black spotted cat with a white hat on the left and an orange robot on the right at night",
    "a red ball on the left, a blue mug in the middle and a green car on the right in the room",
    "a gray bear, a pink rabbit and a brown dog in a meadow",
    "there is a red bird, and to its right a blue striped rabbit, in the desert",
)


def build_scheduler() -> DDIMScheduler:
    """The scheduler saved with the model: velocity prediction, linear betas, trailing steps.

    `steps_offset` does nothing under trailing spacing; diffusers warns about any value but 1. Euler
    and DPM-Solver++ read this configuration with `from_config` and give the same pictures.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=STEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def halve(model: nn.Module) -> nn.Module:
    """Cast parameters and floating buffers to float16 in place; `.to` would print advice."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data = value.data.half()
    return model


def assemble(run: Path) -> StableDiffusionPipeline:
    """Put the trained parts of a run together, in float32 on the CPU."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(run / "vae" / "weights"),
        text_encoder=CLIPTextModel.from_pretrained(run / "unet" / "weights" / "text_encoder"),
        tokenizer=load_tokenizer(run / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(run / "unet" / "weights" / "unet"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(run: Path, folder: Path) -> None:
    """Write the pipeline folder, replacing the parts of an older one.

    Args:
        run: run directory with the stages vae and unet finished.
        folder: where the pipeline goes.
    """
    pipe = assemble(run)
    for model in (pipe.vae, pipe.text_encoder, pipe.unet):
        halve(model)
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial, safe_serialization=True)
    for path in partial.glob("*/config.json"):  # where a model was read from is nobody's business
        settings = json.loads(path.read_text())
        settings.pop("_name_or_path", None)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (partial / CARD).write_text(json.dumps(asdict(ModelCard(GUIDANCE, words()))) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for part in partial.iterdir():  # what else lies there, such as the recognizer, stays
        shutil.rmtree(folder / part.name, ignore_errors=True)
        part.replace(folder / part.name)
    partial.rmdir()


def sheet(rows: list[list[Image]]) -> Image:
    """Pictures of one size in a grid, one prompt a row."""
    from PIL import Image

    width, height = rows[0][0].size
    out = Image.new("RGB", (width * max(len(row) for row in rows), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            out.paste(image, (x * width, y * height))
    return out


def write_samples(
    folder: Path,
    path: Path,
    device: torch.device,
    *,
    seeds: int = 8,
    steps: int = 20,
    guidance: float = GUIDANCE,
) -> None:
    """Draw the fixed prompts with fixed seeds.

    Args:
        folder: pipeline folder.
        path: PNG to write, one row a prompt.
        device: where to work.
        seeds: pictures per prompt, seeds 0, 1, ...
        steps: denoising steps.
        guidance: guidance scale.
    """
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for prompt in SAMPLE_PROMPTS:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(seeds)]
        rows.append(
            pipe(
                [prompt] * seeds,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators,
            ).images
        )
    sheet(rows).save(path)
