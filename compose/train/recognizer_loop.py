"""The recognizer's optimisation: damaged pictures in pairs, AdamW on the clock, an average."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from compose.train.common import (
    Clock,
    Ema,
    RunDir,
    adamw,
    cosine,
    require_finite,
    set_rate,
)
from compose.train.recognizer_damage import Damage, damage
from compose.train.recognizer_data import Labels
from compose.train.recognizer_loss import losses, total
from compose.train.state import load_state, save_state
from compose.world.recognizer import Recognizer, channels_last

STAGE = "recognizer"
_FLOOR = 0.01  # last rate by the highest
_DECAY = 0.998  # of the averaged weights
_REPORT = 100  # steps between two lines of the log


@dataclass(frozen=True)
class Settings:
    """How the recognizer is trained.

    Attributes:
        minutes: length of the optimisation, without drawing and checking; the rate follows the
            clock. 0: no limit.
        steps: an end before the clock's; 0 for none.
        scenes: pictures drawn.
        batch: pictures a step, even.
        rate: highest learning rate of AdamW.
        warmup: steps of rising rate.
        seed: of scenes, weights and damage.
        workers: drawing processes.
        vae_share: share of the pictures that go through the VAE, when one is given.
        check: fresh scenes a row of the final table.
        every: seconds between two checkpoints.
        damage: how far pictures are taken from clean renders.
    """

    minutes: float = 3.0
    steps: int = 0
    scenes: int = 250_000
    batch: int = 256
    rate: float = 1.5e-3
    warmup: int = 200
    seed: int = 0
    workers: int = 0
    vae_share: float = 0.4
    check: int = 1000
    every: float = 45.0
    damage: Damage = field(default_factory=Damage)


class Trainer:
    """Network, optimiser, average and random numbers of one training, and how to put them on disk.

    Attributes:
        network: in training mode.
        step: batches seen, over all calls.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.network = channels_last(Recognizer().to(device)).train()
        self.optimiser = adamw(self.network.parameters(), settings.rate, device)
        self.ema = Ema(self.network, _DECAY)
        self.chance = torch.Generator(device).manual_seed(settings.seed + 1)
        self.step = 0

    def learn(self, pictures: Tensor, truth: Labels, progress: float) -> dict[str, Tensor]:
        """One step.

        Args:
            pictures: [B, 3, 128, 128] uint8.
            truth: their labels.
            progress: share of the budget used, 0 to 1.

        Returns:
            The parts of the loss, and "total".
        """
        set_rate(
            self.optimiser,
            self.settings.rate * cosine(progress, (self.step + 1) / self.settings.warmup, _FLOOR),
        )
        images, labels = damage(pictures.float() / 255, truth, self.settings.damage, self.chance)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            parts = losses(self.network, self.network(images), labels, self.chance)
        parts["total"] = total(parts)
        self.optimiser.zero_grad(set_to_none=True)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.ema.update()
        self.step += 1
        return {name: part.detach() for name, part in parts.items()}

    def save(self, path: Path, seconds: float) -> None:
        """Write everything needed to go on."""
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state(),
            "chance": self.chance.get_state(),
            "step": self.step,
            "seconds": seconds,
        }
        save_state(state, path)

    def resume(self, path: Path) -> float:
        """Go on from a checkpoint if there is one; returns the seconds spent so far."""
        if not path.is_file():
            return 0.0
        state = load_state(path)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.restore(state["ema"])
        self.chance.set_state(state["chance"])
        self.step = int(state["step"])
        return float(state["seconds"])


def optimise(settings: Settings, folder: RunDir, pictures: Tensor, truth: Labels) -> Recognizer:
    """Train on pictures held on their device.

    Args:
        settings: how.
        folder: of the run.
        pictures: [N, 3, 128, 128] uint8; 2i and 2i + 1 share a character.
        truth: their labels, on the same device.

    Returns:
        The averaged network, in evaluation mode.
    """
    trainer = Trainer(settings, pictures.device)
    path = folder.stage(STAGE) / "checkpoint.safetensors"
    spent = trainer.resume(path)
    clock = Clock(settings.minutes * 60 or float("inf"), spent=spent)
    saved = clock.elapsed
    batches = _batches(len(pictures), settings, trainer.step, pictures.device)
    while (done := _progress(settings, clock, trainer.step)) < 1:
        rows = next(batches)
        parts = trainer.learn(pictures[rows], truth.at(rows), done)
        if trainer.step % _REPORT == 0:
            values = {name: float(part) for name, part in parts.items()}
            require_finite(values["total"], STAGE, trainer.step)
            folder.log(STAGE, event="step", step=trainer.step, seconds=clock.elapsed, **values)
        if clock.elapsed - saved > settings.every:
            saved = clock.elapsed
            trainer.save(path, saved)
    trainer.save(path, clock.elapsed)
    folder.log(STAGE, event="trained", step=trainer.step, seconds=clock.elapsed)
    trainer.ema.copy_to(trainer.network)
    trainer.network.eval()
    return trainer.network


def _progress(settings: Settings, clock: Clock, step: int) -> float:
    """Share of the budget used, by clock or steps, whichever is nearer to its end."""
    return max(clock.progress, step / settings.steps if settings.steps else 0.0)


def _batches(count: int, settings: Settings, step: int, device: torch.device) -> Iterator[Tensor]:
    """[B] rows, whole pairs, every pair once an epoch."""
    chance = torch.Generator().manual_seed(settings.seed * 7919 + step)
    pairs = count // 2
    size = min(settings.batch // 2, pairs)
    while True:
        order = torch.randperm(pairs, generator=chance)
        for start in range(0, pairs - size + 1, size):
            part = order[start : start + size]
            yield torch.cat([2 * part, 2 * part + 1]).to(device)
