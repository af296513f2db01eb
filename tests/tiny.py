"""A Stable Diffusion 1.x pipeline of random weights for tests, and adapter files that fit it.

Nothing is downloaded; the same arguments give the same weights and the same files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

Layout = Literal["kohya", "diffusers"]

SIDE = 16
"""Latent width and height; pictures are twice that: 32 x 32."""
TEXT_WIDTH = 32
POSITIONS = 77
WORDS = (
    *("a", "and", "the", "on", "in", "left", "right", "with", "style", "beach"),
    *("cat", "dog", "red", "blue", "mochi", "biscuit", "sunvo", "bolt"),
)
"""Words that are one token; everything else falls apart into letters."""
START, END = "<|startoftext|>", "<|endoftext|>"

ATTENTION = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v",
    "up_blocks.2.attentions.1.transformer_blocks.0.attn2.to_q",
)
CONVOLUTIONS = (
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.1.downsamplers.0.conv",
    "up_blocks.2.resnets.0.conv_shortcut",
    "mid_block.attentions.0.proj_in",  # a linear layer when `linear_projection` is set
)
TEXT = (
    "encoder.layers.0.self_attn.q_proj",
    "encoder.layers.1.self_attn.v_proj",
    "encoder.layers.1.mlp.fc1",
)

_KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
_KOHYA_XL = {
    **_KOHYA,
    "text_encoder": "lora_te1_text_model_",
    "text_encoder_2": "lora_te2_text_model_",
}


def clip_tokenizer(**options: str) -> CLIPTokenizer:
    """Letters, and the words of `WORDS` built up letter by letter."""
    printable = [chr(code) for code in range(33, 127)]
    pieces = [*printable, *(p + "</w>" for p in printable)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            # Joined from the end, so that no merge of one word can spoil another.
            pair = (symbols[-2], symbols[-1])
            symbols[-2:] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
    pieces += ["".join(pair) for pair in merges]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=POSITIONS, **options)


def clip_config(tokenizer: CLIPTokenizer, **changed: Any) -> CLIPTextConfig:
    """Of a small text encoder."""
    sizes: dict[str, Any] = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": TEXT_WIDTH,
    }
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{**sizes, **changed},
    )


def _unet(linear_projection: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 24),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=linear_projection,
    )


def small_vae(**more: Any) -> AutoencoderKL:
    """Latents of half the width and height of pictures."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * SIDE,
        scaling_factor=0.5,
        **more,
    )


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Make a fresh model ready. Norms start as ones and zeros, which hides mistakes; they get
    weights of their own.
    """
    model.eval().requires_grad_(False)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            for parameter in module.parameters(recurse=False):
                parameter.add_(0.3 * torch.randn_like(parameter))


def ddim() -> DDIMScheduler:
    """The scheduler that pipelines come with."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tiny_pipeline(*, linear_projection: bool = False, seed: int = 0) -> StableDiffusionPipeline:
    """A text-to-image pipeline of random weights, in fp32 on the CPU.

    Args:
        linear_projection: whether the UNet's `proj_in` and `proj_out` are linear layers instead
            of 1x1 convolutions.
        seed: of the weights. The global random state stays as it was.
    """
    tokenizer = clip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {
            "text_encoder": CLIPTextModel(clip_config(tokenizer)),
            "unet": _unet(linear_projection),
            "vae": small_vae(),
        }
        for model in models.values():
            settle(model)
    pipe = StableDiffusionPipeline(
        **models,
        tokenizer=tokenizer,
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_folder(folder: Path, *, linear_projection: bool = False, seed: int = 0) -> Path:
    """Save `tiny_pipeline` as a diffusers folder."""
    tiny_pipeline(linear_projection=linear_projection, seed=seed).save_pretrained(folder)
    return folder


def random_adapter_file(
    path: Path,
    *,
    layout: Layout = "kohya",
    rank: int = 3,
    alpha: float | None = None,
    seed: int = 1,
    scale: float = 0.5,
    unet: Sequence[str] = ATTENTION + CONVOLUTIONS,
    text: Sequence[str] = (),
    linear_projection: bool = False,
    metadata: Mapping[str, str] | None = None,
    trigger: str | None = None,
    dtype: torch.dtype = torch.float32,
    pipe: DiffusionPipeline | None = None,
    modules: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a LoRA of random factors that visibly changes what a tiny pipeline draws.

    Args:
        path: where; ends in .safetensors.
        layout: "kohya" (flattened names, lora_down, lora_up, alpha) or "diffusers" (dotted names,
            lora_A, lora_B).
        rank: inner axis of every factor.
        alpha: written beside kohya factors; None writes none, so that the scale is 1. Kohya only.
        seed: of the factors.
        scale: size of the change beside the weights' own size, roughly.
        unet, text: module paths to change.
        linear_projection: which pipeline it is for.
        metadata: texts for the header.
        trigger: trigger word, written into the header as other trainers do.
        dtype: of the factors.
        pipe: which pipeline it is for; None for `tiny_pipeline`.
        modules: component to module paths, in place of `unet` and `text`.
    """
    pipe = pipe or tiny_pipeline(linear_projection=linear_projection)
    prefixes = _KOHYA_XL if hasattr(pipe, "text_encoder_2") else _KOHYA
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for component, names in (modules or {"unet": unet, "text_encoder": text}).items():
        for name in names:
            module = getattr(pipe, component).get_submodule(name)
            down, up = _random_factors(module, rank, scale, generator)
            if layout == "kohya":
                key = prefixes[component] + name.removeprefix("text_model.").replace(".", "_")
                tensors |= _kohya_entries(key, down, up, alpha)
            else:
                key = f"{component}.{name}"
                tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    header = {"ss_output_name": path.stem, **(metadata or {})}
    if trigger is not None:
        header["modelspec.trigger_phrase"] = trigger
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.to(dtype).contiguous() for n, t in tensors.items()}, path, metadata=header)
    return path


def _random_factors(
    module: nn.Module, rank: int, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Factors [rank, *in] and [out, rank(, 1, 1)], with a product of `scale` times the weight."""
    weight = module.weight
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], rank, generator=generator)
    size = scale * float(weight.std()) / rank**0.5
    return down, (up * size).reshape(*up.shape, *(1,) * (weight.ndim - 2))


def _kohya_entries(key: str, down: Tensor, up: Tensor, alpha: float | None) -> dict[str, Tensor]:
    found = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    return found if alpha is None else {**found, f"{key}.alpha": torch.tensor(float(alpha))}
