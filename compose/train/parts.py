"""The UNet, the text encoder and the noise of the embedded world model, before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.errors import ModelError
from compose.train.tokenizer import MAX_LENGTH

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

STEPS = 1000
BETAS = (1e-4, 0.02)


def build_unet(
    width: tuple[int, int, int] = (64, 128, 192), text_width: int = 192
) -> UNet2DConditionModel:
    """The untrained UNet: latents [N, 4, 32, 32], cross attention at 16x16 and 8x8, heads of 32
    channels.

    diffusers reads `attention_head_dim` as the number of heads.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=width,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=tuple(channels // 32 for channels in width),
        cross_attention_dim=text_width,
    )


def build_text_encoder(vocabulary: int, start: int, end: int, width: int = 192) -> CLIPTextModel:
    """The untrained text encoder: 3 layers, heads of 32 channels, 40 positions.

    Args:
        vocabulary: rows of the embedding.
        start, end: token ids; the end token also pads.
        width: of the hidden states.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, projection_dim=width,
        num_hidden_layers=3, num_attention_heads=width // 32, max_position_embeddings=MAX_LENGTH,
        bos_token_id=start, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return CLIPTextModel(config)


def noise_levels(device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Signal and noise amplitude of the 1000 timesteps, each [1000] float32: linear betas."""
    signal = torch.cumprod(1 - torch.linspace(*BETAS, STEPS, dtype=torch.float64), 0)
    return signal.sqrt().float().to(device), (1 - signal).sqrt().float().to(device)


def spread_timesteps(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Timesteps that cover [0, 1000) evenly within a batch, in random order: less noisy gradients.

    Returns:
        [count] int64.
    """
    offset = torch.rand(count, generator=generator, device=device)
    even = (torch.arange(count, device=device) + offset) / count
    order = torch.randperm(count, generator=generator, device=device)
    return (even * STEPS).long().clamp_max(STEPS - 1)[order]


@torch.no_grad()
def give_rare_tokens(embedding: Tensor, rare: list[int], learned: list[int], seed: int) -> None:
    """Give every rare token a random vector of ordinary length.

    A token that no caption holds keeps a tiny embedding, hardly told from any other; an adapter
    needs one to hold on.

    Args:
        embedding: [V, D] weights, changed in place.
        rare: ids that get a vector.
        learned: ids of trained words, whose mean norm sets the length.
        seed: the vectors depend on it and the order of the ids only.

    Raises:
        ModelError: two of the vectors come out alike.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(rare), embedding.shape[1], generator=generator)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    likeness = (vectors @ vectors.T).fill_diagonal_(0).max().item()
    if likeness > 0.7:
        raise ModelError(
            f"two rare tokens are alike (cosine {likeness:.2f}): "
            f"use another seed or a wider text encoder"
        )
    length = embedding[learned].norm(dim=1).mean()
    embedding[rare] = (vectors.to(embedding) * length).to(embedding.dtype)
