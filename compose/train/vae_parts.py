"""The VAE of the embedded world model: network, loss, and latents of mean 0 and deviation 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from compose.train.data import as_float

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def build_vae(channels: tuple[int, ...] = (32, 64, 96)) -> AutoencoderKL:
    """The untrained VAE: three levels, one layer each, no attention, 4 latent channels."""
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=128,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def detail_weight(target: Tensor, strength: float = 3.0) -> Tensor:
    """Weight of every pixel: more where the picture has contrast nearby, so that eyes and outlines
    survive.

    Args:
        target: [N, 3, H, W] in [-1, 1].
        strength: extra weight of a pixel with the picture's mean local contrast.

    Returns:
        [N, 1, H, W], mean 1 per picture; a flat picture gets ones.
    """
    luma = target.mean(1, keepdim=True)
    mean = F.avg_pool2d(luma, 5, 1, 2, count_include_pad=False)
    square = F.avg_pool2d(luma.square(), 5, 1, 2, count_include_pad=False)
    contrast = (square - mean.square()).clamp_min(0).sqrt()
    relative = contrast / contrast.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
    weight = 1 + strength * relative.clamp_max(4.0)
    return weight / weight.mean((1, 2, 3), keepdim=True)


def vae_loss(decoded: Tensor, target: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """L1 + half the gradients' L1 + twice the MSE, weighted by detail, + a little KL.

    Args:
        decoded, target: [N, 3, H, W].
        mean, logvar: [N, 4, H/4, W/4] of the posterior.

    Returns:
        Scalar.
    """
    weight = detail_weight(target)
    error = decoded - target
    flat = (weight * (error.abs() + 2 * error.square())).mean()
    rows = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    columns = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return flat + 0.25 * (rows.mean() + columns.mean()) + 2e-4 * divergence


@torch.no_grad()
def reconstruct(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode (posterior mean) and decode pictures.

    Args:
        model: a VAE.
        images: [N, 3, 128, 128] uint8 on its device.

    Returns:
        [N, 3, 128, 128] in [-1, 1].
    """
    parts = [
        model.decode(model.encode(as_float(part)).latent_dist.mean).sample
        for part in torch.split(images, 64)
    ]
    return torch.cat(parts)


@torch.no_grad()
def normalise_latents(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Make the latents of these pictures mean 0 and deviation 1 per channel, leaving the pictures
    as they are.

    The posterior is rescaled in the quant convolution and undone in the post-quant convolution,
    both exactly. The scaling factor of the configuration stays 1.

    Args:
        model: a trained VAE, changed in place.
        images: [N, 3, 128, 128] uint8.

    Returns:
        Former mean [4] and deviation [4].
    """
    means = torch.cat(
        [model.encode(as_float(part)).latent_dist.mean for part in torch.split(images, 64)]
    ).float()
    centre, spread = means.mean((0, 2, 3)), means.std((0, 2, 3))
    channels = len(centre)
    quant, post = model.quant_conv, model.post_quant_conv
    post.bias.add_(post.weight[:, :, 0, 0] @ centre)
    post.weight.mul_(spread[None, :, None, None])
    quant.bias[:channels].sub_(centre)
    quant.weight[:channels].div_(spread[:, None, None, None])
    quant.bias[:channels].div_(spread)
    quant.bias[channels:].sub_(2 * spread.log())
    return centre, spread
