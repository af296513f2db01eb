"""The recognizer's training: ``python -m compose.train recognizer --out RUN --vae DIR``.

Everything is drawn by our own renderer: scenes are packed in worker processes, rendered once on the
device, held there as bytes and damaged anew in every batch. With a trained VAE a share of them goes
through it first, so that its softness is nothing new when generated pictures are judged.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from compose.device import pick_device
from compose.errors import RequestError
from compose.train.common import RunDir, seed_everything
from compose.train.recognizer_check import calibrate, check, fit_threshold, harvest
from compose.train.recognizer_data import make_pictures
from compose.train.recognizer_loop import STAGE, Settings, optimise
from compose.train.recognizer_vae import Coder
from compose.world.recognizer import Recognizer
from compose.world.recognizer_file import load_recognizer, save_recognizer

_HELD_OUT = 7_001  # seed of the calibration pictures; lots of different seeds never meet
_MOST_HELD = 4000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the stage ``recognizer``."""
    default = Settings()
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--vae", type=Path, help="folder of a trained VAE; without it only clean renders are seen"
    )
    parser.add_argument(
        "--minutes", type=float, default=default.minutes, help="length of the optimisation"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=default.steps,
        help="end after so many steps; 0: the clock ends it",
    )
    parser.add_argument("--scenes", type=int, default=default.scenes, help="pictures to draw")
    parser.add_argument("--batch", type=int, default=default.batch, help="pictures a step")
    parser.add_argument("--rate", type=float, default=default.rate, help="highest learning rate")
    parser.add_argument(
        "--vae-share",
        type=float,
        default=default.vae_share,
        help="share sent through the VAE, 0 to 1",
    )
    parser.add_argument(
        "--check", type=int, default=default.check, help="fresh scenes a row of the final table"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--workers", type=int, default=max(0, (os.cpu_count() or 1) - 1), help="drawing processes"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(args: argparse.Namespace) -> Path:
    """Carry out the stage.

    Args:
        args: as of `add_arguments`.

    Returns:
        The weights' file.
    """
    settings = Settings(
        minutes=args.minutes,
        steps=args.steps,
        scenes=args.scenes,
        batch=args.batch,
        rate=args.rate,
        seed=args.seed,
        workers=args.workers,
        vae_share=args.vae_share,
        check=args.check,
    )
    return train_recognizer(settings, args.out, device=pick_device(args.device), vae=args.vae)


def train_recognizer(
    settings: Settings, out: Path, *, device: torch.device, vae: Path | None = None
) -> Path:
    """Train, calibrate and check a recognizer; goes on from the checkpoint in `out` when there is
    one.

    Args:
        settings: how.
        out: folder of the run; log, checkpoint and weights go to ``out/recognizer``.
        device: where.
        vae: folder of a diffusers `AutoencoderKL`, or of a pipeline that holds one.

    Returns:
        The weights' file.

    Raises:
        RequestError: for settings that cannot work.
        ModelError: when the VAE cannot be read, or the loss is no number any more.
    """
    _demand(settings)
    folder = RunDir(out)
    coder = None if vae is None else Coder(vae, device)
    seed_everything(settings.seed)
    began = time.monotonic()
    pictures, truth = make_pictures(
        settings.scenes, settings.seed, device, workers=settings.workers
    )
    folder.log(STAGE, event="drawn", scenes=len(pictures), seconds=time.monotonic() - began)
    if coder is not None:
        began = time.monotonic()
        coder.soften(pictures[: int(len(pictures) * settings.vae_share)], settings.seed)
        folder.log(STAGE, event="softened", seconds=time.monotonic() - began)
    network = optimise(settings, folder, pictures, truth)
    del pictures, truth
    return _finish(network, settings, folder, device, coder)


def _finish(
    network: Recognizer,
    settings: Settings,
    folder: RunDir,
    device: torch.device,
    coder: Coder | None,
) -> Path:
    """Calibrate on held-out pictures, half of them softened; write; check on fresh scenes."""
    count = min(_MOST_HELD, max(8, settings.scenes // 10))
    held, labels = make_pictures(count, settings.seed + _HELD_OUT, device)
    if coder is not None:
        coder.soften(held[: len(held) // 2], settings.seed + 1)
    network.temperatures = calibrate(harvest(network, held, labels))
    network.threshold = fit_threshold(network, held, labels)
    folder.log(STAGE, event="calibrated", threshold=network.threshold, **network.temperatures)
    path = save_recognizer(network, folder.stage(STAGE))
    ready = load_recognizer(path).to(device)
    soften = coder.round_trip if coder else None
    for row in check(ready, settings.check, settings.seed, soften):
        folder.log(STAGE, event="check", **row)
    folder.mark(STAGE, settings.minutes)
    return path


def _demand(settings: Settings) -> None:
    if settings.minutes <= 0 and settings.steps <= 0:
        raise RequestError(
            "neither minutes nor steps are above 0, so there is no end; give one of them"
        )
    if settings.scenes < 2 or settings.batch < 2:
        raise RequestError(
            f"{settings.scenes} scenes in batches of {settings.batch}: at least 2 of each are "
            "needed, since pictures are learned from in pairs; give more"
        )
    if not 0 <= settings.vae_share <= 1:
        raise RequestError(f"a VAE share of {settings.vae_share} is no share; give 0 to 1")
