"""What every training stage needs: seeds, a run directory with a log, schedule, EMA, atomic
checkpoints."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compose.errors import ModelError
from compose.whole import whole


def seed_everything(seed: int) -> None:
    """Seed Python and torch on every device."""
    random.seed(seed)
    torch.manual_seed(seed)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file: either the old one stays or the whole new one is there."""
    with whole(path) as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part)


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read what `save_tensors` wrote."""
    tensors: dict[str, Tensor] = load_file(path, device=str(device))
    return tensors


@dataclass(frozen=True)
class RunDir:
    """A training run on disk: checkpoints, finished stages and a JSONL log.

    Attributes:
        path: its folder, created on demand.
        rank: only rank 0 writes logs and marks.
    """

    path: Path
    rank: int = 0

    def stage(self, name: str) -> Path:
        """Folder of one stage."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, stage: str, **values: float | int | str) -> None:
        """Append a line to log.jsonl and show it in short on stdout.

        Args:
            stage: which stage speaks.
            values: numbers and words of the line.
        """
        if self.rank != 0:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps({"stage": stage, "time": round(time.time(), 2), **values}) + "\n")
        shown = " ".join(f"{key} {_short(value)}" for key, value in values.items())
        os.write(1, f"[{stage}] {shown}\n".encode())

    def mark(self, stage: str, minutes: float) -> None:
        """Note that a stage has had its full budget."""
        if self.rank == 0:
            (self.stage(stage) / "done.json").write_text(json.dumps({"minutes": minutes}))

    def done(self, stage: str, minutes: float) -> bool:
        """Whether a stage has had at least this budget."""
        path = self.path / stage / "done.json"
        return path.exists() and float(json.loads(path.read_text())["minutes"]) >= minutes - 1e-9


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cosine(progress: float, warmup: float, floor: float) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine.

    Args:
        progress: share of the budget used, in [0, 1].
        warmup: warm-up done, in [0, 1]; 1 once it is over.
        floor: factor at the end.

    Returns:
        Factor in [0, 1].
    """
    fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return min(warmup, 1.0) * fall


@dataclass
class Clock:
    """Time spent on a stage, over several calls of the program.

    Attributes:
        budget: seconds the whole schedule may take.
        deadline: `time.monotonic()` after which this call stops, whatever the schedule says.
        spent: seconds used by earlier calls.
    """

    budget: float
    deadline: float = math.inf
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Begin to count, after compilation."""
        self.started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of the schedule used so far."""
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the schedule used, in [0, 1]."""
        return min(1.0, self.elapsed / max(self.budget, 1e-6))

    @property
    def late(self) -> bool:
        """Whether this call must stop now."""
        return time.monotonic() >= self.deadline


class Ema:
    """Exponential moving average of a model's parameters and buffers, kept in fp32.

    The decay ramps up as (1 + n) / (10 + n), so that early weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.source = [value for value in model.state_dict().values() if value.is_floating_point()]
        self.names = [
            name for name, value in model.state_dict().items() if value.is_floating_point()
        ]
        self.values = [value.detach().float().clone() for value in self.source]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the model as it is now."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(
            self.values, [value.detach().float() for value in self.source], 1 - decay
        )

    def state(self) -> dict[str, Any]:
        """Names to averaged tensors, and the count."""
        return {"count": self.count, "values": dict(zip(self.names, self.values, strict=True))}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.count = int(state["count"])
        for name, value in zip(self.names, self.values, strict=True):
            value.copy_(state["values"][name])

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the averages into a model of the same shape."""
        own = model.state_dict()
        for name, value in zip(self.names, self.values, strict=True):
            own[name].copy_(value)


def adamw(parameters: Iterable[nn.Parameter], lr: float, device: torch.device) -> torch.optim.AdamW:
    """AdamW as all stages use it: betas .9 and .99, weight decay .01, fused on a GPU."""
    return torch.optim.AdamW(
        parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=device.type == "cuda"
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def psnr(image: Tensor, target: Tensor) -> float:
    """Mean peak signal-to-noise ratio.

    Args:
        image, target: [N, 3, H, W] in [-1, 1].

    Returns:
        dB, mean over images.
    """
    error = (image.float().clamp(-1, 1) - target.float()).square().flatten(1).mean(1) / 4
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def require_finite(loss: float, stage: str, step: int) -> None:
    """Stop a training that has blown up before it overwrites a good checkpoint."""
    if not math.isfinite(loss):
        raise ModelError(
            f"{stage}: the loss is {loss} at step {step}; "
            f"go on from the last checkpoint with a smaller learning rate"
        )
