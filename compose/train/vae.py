"""Train the VAE of the embedded world: 128x128 pictures to 4x32x32 latents and back.

Small crops first, since the number of steps counts more than the number of pixels, then whole
pictures, since group norms see other statistics there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose.train.common import (
    Clock,
    Ema,
    RunDir,
    adamw,
    cosine,
    psnr,
    require_finite,
    set_rate,
)
from compose.train.data import as_float, draw_share, fresh_pictures
from compose.train.pace import Pace
from compose.train.ranks import Ranks
from compose.train.state import load_state, save_state
from compose.train.vae_parts import build_vae, normalise_latents, reconstruct, vae_loss


@dataclass(frozen=True)
class VaeOptions:
    """How to train the VAE.

    Attributes:
        run: run directory.
        minutes: whole budget.
        deadline: `time.monotonic()` at which this call stops.
        seed: of crops and order.
        batch: crops per GPU and step; whole pictures are a quarter of it.
        crop: side of a crop in pixels.
        full_from: share of the budget after which whole pictures are used.
        lr: peak learning rate.
        channels: widths of the three levels.
        init: folder of weights to start from.
        max_steps: stop this call after so many steps, for tests.
        judged: fresh pictures to measure on at the end, and four times as many to normalise latents
            by.
    """

    run: Path
    minutes: float
    deadline: float
    seed: int = 0
    batch: int = 128
    crop: int = 64
    full_from: float = 0.75
    lr: float = 1.2e-3
    channels: tuple[int, ...] = (32, 64, 96)
    init: Path | None = None
    max_steps: int | None = None
    judged: int = 256


def random_crops(images: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """Random windows of random pictures.

    Args:
        images: [N, 3, H, W] uint8.
        count: how many.
        side: of a window; H gives whole pictures.
        generator: on the images' device.

    Returns:
        [count, 3, side, side] float in [-1, 1].
    """
    device = images.device
    picks = torch.randint(len(images), (count, 1, 1), generator=generator, device=device)
    room = images.shape[-1] - side + 1
    top = torch.randint(room, (count, 1, 1), generator=generator, device=device)
    left = torch.randint(room, (count, 1, 1), generator=generator, device=device)
    steps = torch.arange(side, device=device)
    window = images.permute(0, 2, 3, 1)[
        picks, top + steps[None, :, None], left + steps[None, None, :]
    ]
    return as_float(window.permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)


class _Training:
    """State of a VAE training between steps."""

    def __init__(self, ranks: Ranks, options: VaeOptions, images: Tensor) -> None:
        self.ranks, self.options, self.images = ranks, options, images
        device = ranks.device
        torch.manual_seed(options.seed)
        self.model = build_vae(options.channels)
        if options.init is not None:
            self.model = type(self.model).from_pretrained(options.init)
        self.model.to(device=device, memory_format=torch.channels_last)
        self.ema = Ema(self.model, 0.998)
        self.optimiser = adamw(self.model.parameters(), options.lr, device)
        self.clock = Clock(options.minutes * 60, options.deadline)
        self.step = 0
        self.path = RunDir(options.run).stage("vae") / "state.safetensors"
        if self.path.exists():
            self.restore()
        self.generator = torch.Generator(device).manual_seed(
            options.seed * 1000 + ranks.rank + 7919 * self.step
        )

    def restore(self) -> None:
        state = load_state(self.path, self.ranks.device)
        self.model.load_state_dict(state["model"])
        self.ema.restore(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.clock.spent = int(state["step"]), float(state["spent"])

    def save(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(), "ema": self.ema.state(),
            "optimiser": self.optimiser.state_dict(), "step": self.step,
            "spent": self.clock.elapsed,
        }  # fmt: skip
        save_state(state, self.path)

    def advance(self, progress: float) -> Tensor:
        """One optimiser step; returns the loss []."""
        options = self.options
        full = progress >= options.full_from
        count, side = (max(1, options.batch // 2), 128) if full else (options.batch, options.crop)
        target = random_crops(self.images, count, side, self.generator)
        with torch.autocast(
            self.ranks.device.type, torch.bfloat16, enabled=self.ranks.device.type == "cuda"
        ):
            posterior = self.model.encode(target).latent_dist
            decoded = self.model.decode(posterior.sample(self.generator)).sample
        loss = vae_loss(decoded.float(), target, posterior.mean.float(), posterior.logvar.float())
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.ranks.share_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        set_rate(self.optimiser, options.lr * cosine(progress, (self.step + 1) / 200, 0.02))
        self.optimiser.step()
        self.ema.update()
        self.step += 1
        return loss.detach()


def _loop(training: _Training, run: RunDir) -> bool:
    """Train until the budget or the call ends; returns whether the budget is used up."""
    ranks, clock, pace = training.ranks, training.clock, Pace(training)
    first, logged = training.step, clock.elapsed
    for progress in pace:
        loss = training.advance(progress)
        if training.step % 200 == 0 or training.step == first + 1:
            value = ranks.mean(loss)
            require_finite(value, "vae", training.step)
            run.log(
                "vae",
                step=training.step,
                loss=value,
                progress=progress,
                seconds=clock.elapsed - logged,
            )
            logged = clock.elapsed
    return pace.finished


def train_vae(ranks: Ranks, options: VaeOptions) -> None:
    """The stage vae: train within the budget, then write RUN/vae/weights and mark the stage."""
    run = RunDir(options.run, ranks.rank)
    base = draw_share(run, "base", ranks, limit=40_000 // ranks.size).images
    rich = draw_share(run, "all", ranks).images
    training = _Training(ranks, options, torch.cat([base, rich]))
    ranks.same_weights(training.model)
    finished = _loop(training, run)
    ranks.barrier()
    if not ranks.main:
        return
    training.save()
    if not finished:
        run.log("vae", paused_at_step=training.step, progress=training.clock.progress)
        return
    model = training.model
    training.ema.copy_to(model)
    model.eval()
    centre, spread = normalise_latents(model, base[-4 * options.judged :])
    fresh = {
        words: fresh_pictures(words, options.judged, options.seed, ranks.device)
        for words in ("base", "all")
    }
    scores = {
        words: psnr(reconstruct(model, part), as_float(part)) for words, part in fresh.items()
    }
    model.save_pretrained(run.stage("vae") / "weights")
    shown = {
        "centre": str(centre.cpu().numpy().round(3)),
        "spread": str(spread.cpu().numpy().round(3)),
    }
    run.log("vae", step=training.step, psnr_base=scores["base"], psnr_all=scores["all"], **shown)
    run.mark("vae", options.minutes)
