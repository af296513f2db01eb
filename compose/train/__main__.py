"""`python -m compose.train world --out RUN`: train the embedded world model from nothing, stage by
stage.

Stages: data (scenes and captions), vae, unet (with the text encoder), export. Each leaves its mark
in the run directory; a finished stage is skipped, a paused one goes on where it stopped.
`--minutes-now` ends this call in good time with everything saved, so that a long training fits into
several short calls.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
from pathlib import Path

from compose.errors import ComposeError

STAGES = ("data", "vae", "unet", "export")
OTHERS = {
    "recognizer": ("compose.train.recognizer", "the network that reads pictures of the world"),
    "loras": ("compose.train.loras", "many adapters at once"),
}


TUNING: dict[str, tuple[type, float | None, str]] = {
    "--minutes-vae": (float, 4.0, "training time of the VAE over all calls"),
    "--minutes-unet": (float, 12.0, "training time of the UNet over all calls"),
    "--minutes-data": (float, math.inf, "stop making scenes after so long"),
    "--minutes-now": (float, math.inf, "save and stop this call after so long"),
    "--scenes": (int, 300_000, "base scenes, with captions"),
    "--all-scenes": (int, 80_000, "scenes over all words, for the VAE only"),
    "--captions": (int, 12, "captions per base scene"),
    "--workers": (int, os.cpu_count(), "processes that make scenes"),
    "--vae-batch": (int, 128, "64-pixel crops per GPU and step"),
    "--unet-batch": (int, 512, "samples per GPU and step"),
    "--vae-lr": (float, 1.2e-3, "peak learning rate of the VAE"),
    "--unet-lr": (float, 8e-4, "peak learning rate of UNet and text encoder"),
    "--gpus": (int, None, "processes, one GPU each (default: all; 0: the CPU)"),
    "--seed": (int, 0, "of scenes, weights and noise"),
}


def _world_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, help="run directory; a run in it goes on"
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="some of data,vae,unet,export")
    for flag, (kind, default, text) in TUNING.items():
        parser.add_argument(flag, type=kind, default=default, help=text)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--init", type=Path, help="pipeline folder to start the weights from")
    parser.add_argument("--export-to", type=Path, help="pipeline folder to write (OUT/export)")
    parser.add_argument("--tiny", action="store_true", help="a few steps with a tiny UNet")


def _parser(asked: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compose.train", description="Train the parts of the world model."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _world_options(
        commands.add_parser("world", help="scenes, VAE, UNet and text encoder, pipeline")
    )
    for name, (module, text) in OTHERS.items():
        parts = commands.add_parser(name, help=text)
        if name == asked:  # only then: the others stay unimported
            importlib.import_module(module).add_arguments(parts)
    for name, text in (
        ("pack", "split a folder into pieces"),
        ("unpack", "put the pieces together again"),
    ):
        other = commands.add_parser(name, help=text)
        other.add_argument("source", type=Path)
        other.add_argument("target", type=Path)
    return parser


def _train_data(args: argparse.Namespace, deadline: float) -> bool:
    from compose.train.common import RunDir
    from compose.train.data import make_data

    return make_data(
        RunDir(args.out), scenes=args.scenes, all_scenes=args.all_scenes, captions=args.captions,
        seed=args.seed, workers=args.workers, deadline=min(deadline, time.monotonic() + 60 *
        args.minutes_data),
    )  # fmt: skip


def _train_vae(args: argparse.Namespace, deadline: float) -> bool:
    from compose.train.common import RunDir
    from compose.train.ranks import launch
    from compose.train.vae import VaeOptions, train_vae

    options = VaeOptions(
        run=args.out, minutes=args.minutes_vae, deadline=deadline, seed=args.seed,
        batch=args.vae_batch, lr=args.vae_lr, init=args.init / "vae" if args.init else None,
        max_steps=4 if args.tiny else None, judged=8 if args.tiny else 256,
    )  # fmt: skip
    launch(train_vae, options, max(args.gpus, 1), "cuda" if args.gpus else "cpu")
    return RunDir(args.out).done("vae", args.minutes_vae)


def _train_unet(args: argparse.Namespace, deadline: float) -> bool:
    from compose.train.base import BaseOptions, train_base
    from compose.train.common import RunDir
    from compose.train.ranks import launch

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(args.out.resolve() / "compiled"))
    options = BaseOptions(
        run=args.out, minutes=args.minutes_unet, deadline=deadline, seed=args.seed,
        batch=args.unet_batch, lr=args.unet_lr, compile=not args.no_compile and args.gpus > 0,
        init=args.init, width=(32, 32, 64) if args.tiny else (64, 128, 192),
        text_width=64 if args.tiny else 192, max_steps=4 if args.tiny else None,
    )  # fmt: skip
    launch(train_base, options, max(args.gpus, 1), "cuda" if args.gpus else "cpu")
    return RunDir(args.out).done("unet", args.minutes_unet)


def _export(args: argparse.Namespace, deadline: float) -> bool:
    import torch

    from compose.train.common import RunDir
    from compose.train.export import export, write_samples

    target = args.export_to or args.out / "export"
    export(args.out, target)
    few = {"seeds": 1, "steps": 2} if args.tiny else {}
    write_samples(
        target, args.out / "samples.png", torch.device("cuda" if args.gpus else "cpu"), **few
    )
    RunDir(args.out).log("export", folder=str(target), megabytes=_size(target) / 1e6)
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def train_world(args: argparse.Namespace) -> bool:
    """Run the asked stages in order; returns whether all of them are finished."""
    import torch

    from compose.train.common import RunDir

    deadline = time.monotonic() + 60 * args.minutes_now
    args.gpus = torch.cuda.device_count() if args.gpus is None else args.gpus
    asked = [name.strip() for name in args.stages.split(",")]
    if unknown := [name for name in asked if name not in STAGES]:
        raise ComposeError(f"unknown stage {unknown[0]!r}: expected some of {', '.join(STAGES)}")
    run = RunDir(args.out)
    budgets = {"vae": args.minutes_vae, "unet": args.minutes_unet}
    work = {"data": _train_data, "vae": _train_vae, "unet": _train_unet, "export": _export}
    for name in STAGES:
        if name not in asked:
            continue
        if name in budgets and run.done(name, budgets[name]):
            run.log(name, skipped="finished before")
            continue
        started = time.monotonic()
        finished = work[name](args, deadline)
        run.log(name, finished=str(finished), seconds=time.monotonic() - started)
        if not finished:
            return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Entry point.

    Returns:
        0, or 3 when the time of this call ran out and the same command goes on, or 2 on an error.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser((argv or [""])[0]).parse_args(argv)
    try:
        if args.command == "world":
            return 0 if train_world(args) else 3
        if args.command in OTHERS:
            outcome = importlib.import_module(OTHERS[args.command][0]).run(args)
            return outcome if isinstance(outcome, int) else 0
        from compose.train.pieces import pack_folder, unpack_folder

        (pack_folder if args.command == "pack" else unpack_folder)(args.source, args.target)
    except ComposeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
