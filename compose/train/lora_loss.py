"""What a step of an adapter's training minimises."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from compose.train.lora_config import LoraSettings
from compose.train.lora_data import Bank, Batch
from compose.train.lora_tara import Tara
from compose.train.parts import spread_timesteps

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class Losses(NamedTuple):
    """What a step minimises the weighted sum of.

    Attributes:
        noise: mean error of the prediction, [].
        align: TARA's alignment loss before its weight, []; 0 where there is none.
    """

    noise: Tensor
    align: Tensor


def batch_loss(
    pipe: StableDiffusionPipeline,
    banks: list[tuple[Bank, int]],
    settings: LoraSettings,
    alphas: Tensor,
    rng: torch.Generator,
    tara: Tara | None = None,
) -> Losses:
    """Losses of one drawn batch.

    Args:
        pipe: the base with its adapter.
        banks: what the batch is drawn from, and how many rows from each.
        settings: caption dropout and loss weights.
        alphas: [S] cumulative alphas of the schedule.
        rng: of pictures, captions, noise and timesteps; on the device that trains.
        tara: of the adapter, where it is trained so.
    """
    drawn = [bank.draw(count, settings.caption_dropout, rng) for bank, count in banks]
    batch = Batch.joined(drawn)
    latents = batch.latents
    times = spread_timesteps(len(latents), rng, latents.device)
    noise = torch.randn(latents.shape, generator=rng, device=latents.device)
    noisy, target, weight = noised(
        latents,
        noise,
        alphas[times],
        velocity=pipe.scheduler.config.prediction_type == "v_prediction",
        min_snr=settings.min_snr,
    )
    align = latents.new_zeros(())
    if tara is not None:
        tara.see(batch.words)
        if settings.align:
            align = tara.align(batch.texts, batch.words)
    with _autocast(latents.device):
        guess: Tensor = pipe.unet(noisy, times, batch.texts, return_dict=False)[0]
    error = (guess.float() - target).square().mean(dim=(1, 2, 3))
    return Losses((error * weight).mean(), align)


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def noised(
    latents: Tensor, noise: Tensor, alphas: Tensor, *, velocity: bool, min_snr: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, what the model should say, and how much it counts.

    Args:
        latents: [B, C, h, w] clean.
        noise: [B, C, h, w] standard normal.
        alphas: [B] cumulative alpha of each row's timestep, in (0, 1).
        velocity: whether the model predicts v (https://arxiv.org/abs/2202.00512), not the noise.
        min_snr: cap of https://arxiv.org/abs/2303.09556, or None for weight 1.

    Returns:
        Noisy latents [B, C, h, w], target [B, C, h, w], weight [B].
    """
    signal, sigma = (part.sqrt()[:, None, None, None] for part in (alphas, 1 - alphas))
    noisy = signal * latents + sigma * noise
    target = signal * noise - sigma * latents if velocity else noise
    if min_snr is None:
        return noisy, target, torch.ones_like(alphas)
    snr = alphas / (1 - alphas)
    return noisy, target, snr.clamp(max=min_snr) / (snr + 1 if velocity else snr)
