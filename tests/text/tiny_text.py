"""The text side of tiny SDXL, Stable Diffusion 3 and FLUX pipelines, of random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.tiny import WORDS, tiny_pipeline

T5_WIDTH = 64


def clip_tokenizer(pad: str | None = None) -> CLIPTokenizer:
    """That of `tiny_pipeline`; `pad` is another padding token, as SDXL's second one has."""
    tokenizer = tiny_pipeline().tokenizer
    if pad is not None:
        tokenizer.pad_token = pad
    return tokenizer


def clip(tokenizer: CLIPTokenizer, width: int, *, projection: bool, layers: int = 3) -> nn.Module:
    """A CLIP text model of random weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=40,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width - 8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _seeded((CLIPTextModelWithProjection if projection else CLIPTextModel), config)


def t5_tokenizer() -> T5Tokenizer:
    """Letters and the words of `tests.tiny`."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -4.0) for code in range(33, 127) if chr(code) != "<"]
    words = [("▁" + word, -1.0) for word in WORDS]
    return T5Tokenizer(vocab=[*special, *letters, *words], extra_ids=0)


def t5(tokenizer: T5Tokenizer) -> nn.Module:
    """A T5 encoder of random weights."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=T5_WIDTH, d_kv=8, d_ff=40, num_layers=2, num_heads=4
    )
    return _seeded(T5EncoderModel, config)


def sdxl() -> StableDiffusionXLPipeline:
    """Two encoders; the second pads with another token and gives the pooled output."""
    first, second = clip_tokenizer(), clip_tokenizer("!")
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=clip(first, 32, projection=False),
        text_encoder_2=clip(second, 48, projection=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=None,
        scheduler=None,
    )


def sd3() -> StableDiffusion3Pipeline:
    """Two CLIP encoders and T5."""
    first, second, third = clip_tokenizer(), clip_tokenizer("!"), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        text_encoder=clip(first, 16, projection=True),
        tokenizer=first,
        text_encoder_2=clip(second, 32, projection=True),
        tokenizer_2=second,
        text_encoder_3=t5(third),
        tokenizer_3=third,
    )


def flux() -> FluxPipeline:
    """CLIP for its pooled output, and T5."""
    first, second = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        scheduler=None,
        vae=None,
        text_encoder=clip(first, 32, projection=False),
        tokenizer=first,
        text_encoder_2=t5(second),
        tokenizer_2=second,
        transformer=None,
    )


def _seeded(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():  # what starts as ones or zeros hides mistakes
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)
