"""Models of full size and random weights, as folders in diffusers layout, and adapters for them.

Sizes are those of the released checkpoints; what they draw is noise. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from tests.tiny import clip_tokenizer
from tests.tiny_t5 import t5_tokenizer

_VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
}


@contextmanager
def _made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Parameters are made on a device in a dtype at once: twelve billion of them in fp32 first
    would not fit."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _clip(width: int, layers: int, heads: int, act: str, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
        projection_dim=projection,
    )


def sdxl(device: str, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: UNet 2.6 B, CLIP-L and CLIP-G."""
    with _made_on(device, dtype):
        networks = _sdxl_networks()
    return StableDiffusionXLPipeline(
        **networks,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
    )


def _sdxl_networks() -> dict[str, nn.Module]:
    return dict(
        vae=AutoencoderKL(latent_channels=4, scaling_factor=0.13025, **_VAE),
        text_encoder=CLIPTextModel(_clip(768, 12, 12, "quick_gelu", 768)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(1280, 32, 20, "gelu", 1280)),
        unet=UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
    )


def flux(device: str, dtype: torch.dtype) -> FluxPipeline:
    """FLUX.1 dev: transformer 12 B, CLIP-L and T5-XXL."""
    with _made_on(device, dtype):
        networks = _flux_networks()
    return FluxPipeline(
        **networks,
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
    )


def _flux_networks() -> dict[str, nn.Module]:
    t5 = T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    vae = {**_VAE, "use_quant_conv": False, "use_post_quant_conv": False}
    return dict(
        vae=AutoencoderKL(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, **vae),
        text_encoder=CLIPTextModel(_clip(768, 12, 12, "quick_gelu", 768)),
        text_encoder_2=T5EncoderModel(t5),
        transformer=FluxTransformer2DModel(guidance_embeds=True),
    )


MODELS = {"sdxl": sdxl, "flux": flux}
_LINEARS = {  # 700 of SDXL's UNet, 418 of FLUX's transformer, as in the kernel benchmarks
    "sdxl": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    "flux": (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"),
        *("to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj"),
        *("ff_context.net.2", "proj_mlp", "proj_out"),
    ),
}


def build(name: str, folder: Path, device: str) -> nn.Module:
    """Write a model of random weights in bf16; returns its denoiser."""
    torch.manual_seed(0)
    pipe = MODELS[name](device, torch.bfloat16)
    pipe.save_pretrained(folder, max_shard_size="8GB")
    denoiser: nn.Module = pipe.unet if name == "sdxl" else pipe.transformer
    return denoiser


def adapters(name: str, denoiser: nn.Module, folder: Path, count: int, rank: int) -> list[Path]:
    """Write adapters of random factors in diffusers layout; each changes a layer by about 2 % of
    its weight's size."""
    component = "unet" if name == "sdxl" else "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for k in range(count):
        generator = torch.Generator().manual_seed(k)
        tensors = {}
        for path, module in denoiser.named_modules():
            if isinstance(module, nn.Linear) and _wanted(name, path):
                size = 0.02 * float(module.weight.detach().float().std()) / rank**0.5
                down = torch.randn(rank, module.in_features, generator=generator)
                up = torch.randn(module.out_features, rank, generator=generator) * size
                tensors[f"{component}.{path}.lora_A.weight"] = down.bfloat16()
                tensors[f"{component}.{path}.lora_B.weight"] = up.bfloat16()
        out.append(folder / f"random{k}.safetensors")
        save_file(tensors, out[-1])
    return out


def _wanted(name: str, path: str) -> bool:
    if path == "proj_out":  # FLUX's last layer; those of its single blocks are meant
        return False
    return path.endswith(tuple(f".{leaf}" for leaf in _LINEARS[name]))
