"""Full-size SDXL and FLUX with four adapters: our command line beside diffusers and PEFT.

    python benchmarks/full_size.py sdxl --scratch DIR --results benchmarks
    python benchmarks/full_size.py flux --scratch DIR --results benchmarks --offload model

Weights are random, so the picture is noise; seconds and memory are those of the real thing. Either
side is a process of its own on the same folders: load, 20 steps at 1024 px in bf16, save. Appends
to results.csv and writes results/full_size/NAME.json.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PROMPT = "a cat on the left and a dog on the right"
OFFLOADS = ("none", "model", "sequential")
COLUMNS = (
    *("date", "device", "commit", "torch", "model", "mode", "side", "K", "rank", "gates"),
    *("p20_ms", "p50_ms", "p80_ms", "ratio"),
)


def main() -> None:
    """Build what is missing, measure both sides, record."""
    args = _arguments()
    if args.side:
        print(json.dumps(SIDES[args.side](args)))
        return
    begun = time.perf_counter()
    args.scratch.mkdir(parents=True, exist_ok=True)
    if not _model(args).is_dir():
        _build(args)
        print(f"built in {time.perf_counter() - begun:.0f} s", flush=True)
    found: dict[str, dict[str, Any]] = {}
    for side in SIDES:  # each is recorded at once: the next may run out of time or memory
        found[side] = _measure(side, args)
        _record(args, found)
        print(side, json.dumps(found[side]), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", choices=("sdxl", "flux"))
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent)
    parser.add_argument("--offload", choices=OFFLOADS, default="none")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", choices=("ours", "diffusers"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _model(args: argparse.Namespace) -> Path:
    folder: Path = args.scratch / args.model
    return folder


def _files(args: argparse.Namespace) -> list[Path]:
    return sorted((args.scratch / f"{args.model}-adapters").glob("*.safetensors"))


def _build(args: argparse.Namespace) -> None:
    from benchmarks import full_size_models as models

    partial = _model(args).with_suffix(".part")
    denoiser = models.build(args.model, partial, args.device)
    models.adapters(
        args.model,
        denoiser,
        args.scratch / f"{args.model}-adapters",
        args.adapters,
        args.rank,
    )
    partial.rename(_model(args))


def _measure(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One side as a process of its own; its last line of output is its report."""
    command = [sys.executable, "-m", "benchmarks.full_size", *sys.argv[1:], "--side", side]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "process": round(time.perf_counter() - begun, 2)}


def _ours(args: argparse.Namespace) -> dict[str, Any]:
    import contextlib
    import io

    from compose_app.cli import main as command

    loras = [part for file in _files(args) for part in ("--lora", f"{file}:0.5")]
    words = ["generate", PROMPT, "--model", str(_model(args)), *loras]
    words += ["--size", f"{args.size}x{args.size}", "--steps", str(args.steps), "--seed", "1"]
    words += ["--device", args.device, "--dtype", "bf16", "--offload", args.offload]
    words += ["--out", str(args.scratch / "out"), "--json", "--quiet"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        command(words)
    seconds = json.loads(said.getvalue().strip().splitlines()[-1])["seconds"]
    return {**seconds, **_memory()}


def _diffusers(args: argparse.Namespace) -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    begun = time.perf_counter()
    pipe = DiffusionPipeline.from_pretrained(_model(args), dtype=torch.bfloat16)
    if args.offload == "none":
        pipe.to(args.device)
    names = [file.stem for file in _files(args)]
    for file, name in zip(_files(args), names, strict=True):
        pipe.load_lora_weights(str(file), adapter_name=name)
    pipe.set_adapters(names, [0.5] * len(names))
    if args.offload == "model":
        pipe.enable_model_cpu_offload()
    elif args.offload == "sequential":
        pipe.enable_sequential_cpu_offload()
    loaded = time.perf_counter()
    image = pipe(
        PROMPT,
        width=args.size,
        height=args.size,
        num_inference_steps=args.steps,
        generator=torch.Generator("cpu").manual_seed(1),
    ).images[0]
    made = time.perf_counter()
    image.save(args.scratch / "diffusers.png")
    return {
        "load": round(loaded - begun, 3),
        "denoise_and_decode": round(made - loaded, 3),
        "total": round(made - begun, 3),
        **_memory(),
    }


SIDES = {"ours": _ours, "diffusers": _diffusers}


def _memory() -> dict[str, float]:
    """Largest memory of the device, in GB of 10^9 bytes."""
    if not torch.cuda.is_available():
        return {}
    return {
        "allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }


def _record(args: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    import diffusers

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    today = datetime.date.today().isoformat()
    settings = {
        **{k: str(v) for k, v in vars(args).items() if k not in ("side", "results", "scratch")},
        "date": today,
        "machine": machine,
        "commit": commit,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    folder = args.results / "results" / "full_size"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{args.model}-{args.offload}"
    (folder / f"{stem}.json").write_text(
        json.dumps({"settings": settings, "sides": found}, indent=1) + "\n"
    )
    rows = [
        [
            *(today, machine, commit, torch.__version__, args.model),
            f"whole process, offload {args.offload}",
            *(side, args.adapters, args.rank, "scalar", "", round(numbers["total"] * 1000), "", ""),
        ]
        for side, numbers in list(found.items())[-1:]  # the others stand there already
    ]
    _append(args.results / "results.csv", rows)


def _append(path: Path, rows: Sequence[Sequence[object]]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
