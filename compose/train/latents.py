"""Latents of the training pictures, encoded once and kept on disk as mean and deviation in half
precision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.train.common import RunDir, load_state, save_atomic
from compose.train.data import as_float, draw_shard, shard_files
from compose.train.ranks import Ranks

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class Latents:
    """A rank's share of the encoded data, on its device.

    Attributes:
        mean, std: [N, 4, 32, 32] float16 of the VAE's posterior, unscaled.
        tokens: [N, C, 40] int16 caption ids.
    """

    mean: Tensor
    std: Tensor
    tokens: Tensor


def fingerprint(weights: Path) -> str:
    """Eight hex digits of a VAE's weight file: latents of another VAE are never mixed in."""
    return hashlib.sha256(
        (weights / "diffusion_pytorch_model.safetensors").read_bytes()
    ).hexdigest()[:8]


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    means, stds = [], []
    for part in torch.split(images, 256):
        with torch.autocast(
            images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"
        ):
            posterior = vae.encode(as_float(part)).latent_dist
        means.append(posterior.mean.half())
        stds.append(posterior.std.half())
    return torch.cat(means), torch.cat(stds)


def load_latents(run: RunDir, weights: Path, ranks: Ranks) -> Latents:
    """Encode this rank's base scenes, or read them where an earlier call has.

    Args:
        run: the run with the data.
        weights: folder of the VAE.
        ranks: who we are.
    """
    from diffusers import AutoencoderKL

    folder = run.stage("latents") / fingerprint(weights)
    vae = AutoencoderKL.from_pretrained(weights).to(ranks.device).eval()
    parts: list[Latents] = []
    for shard in shard_files(run, "base", ranks):
        path = folder / f"{shard.stem}.pt"
        if not path.exists():
            pictures = draw_shard(shard, ranks.device)
            mean, std = _encode(vae, pictures.images)
            save_atomic(
                {"mean": mean.cpu(), "std": std.cpu(), "tokens": pictures.tokens.cpu()}, path
            )
        state = load_state(path, ranks.device)
        parts.append(Latents(state["mean"], state["std"], state["tokens"]))
    return Latents(
        torch.cat([part.mean for part in parts]),
        torch.cat([part.std for part in parts]),
        torch.cat([part.tokens for part in parts]),
    )
