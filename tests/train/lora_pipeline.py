"""A tiny Stable Diffusion pipeline: random weights, the embedded world's tokenizer, 16 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from compose.train.lora_config import LoraConfig, load_config
from compose.train.tokenizer import build_tokenizer

SIZE = 16
QUICK: dict[str, object] = {"steps": 3, "batch": 2, "captions": 2, "rank": 2}
CONCEPT = "name: mine\ntrigger: <v1>\ncategory: character\nclass_word: cat\ncount: 2\n"
DRAWN = "thing: {species: cat, colour: teal, pattern: split, second: white}\n"


def tiny_pipeline(prediction: str = "v_prediction", seed: int = 0) -> StableDiffusionPipeline:
    """Pictures of 16 pixels, latents [4, 8, 8], one attention level."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        scaling_factor=1.0,
    )
    scheduler = DDIMScheduler(
        prediction_type=prediction, steps_offset=1, timestep_spacing="trailing", clip_sample=False
    )
    parts: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipe = StableDiffusionPipeline(vae, CLIPTextModel(text), tokenizer, unet, scheduler, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def configure(folder: Path, body: str = DRAWN, **overrides: object) -> LoraConfig:
    """A concept file of two pictures, read with settings for a training of an instant."""
    path = folder / "mine.yaml"
    path.write_text(CONCEPT + body)
    return load_config(path, overrides=QUICK | overrides)
