"""Latents of the training pictures, encoded once and kept on disk as mean and deviation in half
precision, with the places that accessories cover."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.train.common import RunDir, load_tensors, save_tensors
from compose.train.data import as_float, draw_lots, shard_lots
from compose.train.ranks import Ranks

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_BATCH = 1024


@dataclass(frozen=True)
class Latents:
    """A rank's share of the encoded data, on its device.

    Attributes:
        mean, std: [N, 4, 32, 32] float16 of the VAE's posterior, unscaled.
        worn: [N, 32, 32] uint8, how much of each place is an accessory, 255 for all of it.
        tokens: [N, C, 40] int16 caption ids.
    """

    mean: Tensor
    std: Tensor
    worn: Tensor
    tokens: Tensor


def fingerprint(weights: Path) -> str:
    """Eight hex digits of a VAE's weight file: latents of another VAE are never mixed in."""
    return hashlib.sha256(
        (weights / "diffusion_pytorch_model.safetensors").read_bytes()
    ).hexdigest()[:8]


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: Tensor) -> dict[str, Tensor]:
    """Mean and deviation of the posterior of pictures [N, 3, 128, 128] uint8."""
    on_gpu, means, stds = images.device.type == "cuda", [], []
    for part in torch.split(images, _BATCH):
        pixels = as_float(part).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=on_gpu):
            posterior = vae.encode(pixels).latent_dist
        means.append(posterior.mean.half())
        stds.append(posterior.std.half())
    return {name: torch.cat(parts).contiguous() for name, parts in (("mean", means), ("std", stds))}


def _make(
    vae: AutoencoderKL, lots: dict[Path, tuple[Path, ...]], device: torch.device
) -> dict[Path, dict[str, Tensor]]:
    """Draw and encode lots; a thread writes each to its path while the next one is made."""
    made: dict[Path, dict[str, Tensor]] = {}
    with ThreadPoolExecutor(1) as writer:
        written = []
        drawn = draw_lots(list(lots.values()), device, worn=True)
        for path, pictures in zip(lots, drawn, strict=True):
            made[path] = _encode(vae, pictures.images) | {"worn": pictures.worn}
            written.append(writer.submit(save_tensors, made[path], path))
        for one in written:
            one.result()
    return made


def load_latents(run: RunDir, weights: Path, ranks: Ranks) -> Latents:
    """Encode this rank's base scenes, or read them where an earlier call has.

    Args:
        run: the run with the data.
        weights: folder of the VAE.
        ranks: who we are.
    """
    from diffusers import AutoencoderKL

    folder = run.stage("latents") / fingerprint(weights)
    lots = {
        folder / f"{lot[0].stem}_to_{lot[-1].stem}.safetensors": lot
        for lot in shard_lots(run, "base", ranks)
    }
    missing = {path: lot for path, lot in lots.items() if not path.exists()}
    made: dict[Path, dict[str, Tensor]] = {}
    if missing:
        vae = AutoencoderKL.from_pretrained(weights, torch_dtype=torch.float32).eval()
        vae.to(device=ranks.device, memory_format=torch.channels_last)
        made = _make(vae, missing, ranks.device)
    parts = [made[path] if path in made else load_tensors(path, ranks.device) for path in lots]
    tokens = torch.cat([load_tensors(path)["tokens"] for lot in lots.values() for path in lot])
    return Latents(
        torch.cat([part["mean"] for part in parts]),
        torch.cat([part["std"] for part in parts]),
        torch.cat([part["worn"] for part in parts]),
        tokens.to(ranks.device),
    )
