"""From the shell to the picture: `lora-compose generate` beside the same job in plain diffusers.

Both run as processes of their own, by turns, so that drift of the machine hits both alike: same
model, adapters, steps, seed, device, and a PNG file at the end.

    python benchmarks/whole_process.py --repeats 7
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from compose.adapters.library import AdapterLibrary
from compose.models.detect import model_folder

HERE = Path(__file__).parent
PROMPT = "mochi cat on the left and biscuit dog on the right on the beach, sunvo style"


def main() -> None:
    """Measure and print a table."""
    args = _arguments()
    folder = model_folder(args.model)
    library = AdapterLibrary.default()
    files = [str(library.find(name).path) for name in args.lora]
    common = ["--steps", str(args.steps), "--guidance", "4", "--seed", "7"]
    common += ["--device", args.device]
    loras = [part for file in files for part in ("--lora", file)]
    with tempfile.TemporaryDirectory() as scratch:
        plain_picture = Path(scratch) / "plain.png"
        plain = [sys.executable, str(HERE / "plain_diffusers.py"), args.prompt, *loras, *common]
        plain += ["--model", str(folder), "--out", str(plain_picture)]
        ours = [sys.executable, "-m", "compose_app.cli", "generate", args.prompt, *loras, *common]
        ours += ["--model", args.model, "--out", f"{scratch}/ours", "--quiet"]
        commands = {"lora-compose": ours, "diffusers + PEFT": plain}
        times = measure(commands, args.repeats, rounds_to_warm=1)
        made = next(Path(scratch, "ours").glob("*.png"))
        difference = pixel_difference(made, plain_picture)
    print(f"{len(files)} adapters, {args.steps} steps, {args.device}, {args.repeats} repeats")
    print(table(times))
    print(f"largest difference of a pixel between the two pictures: {difference} of 255")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--lora", nargs="*", default=["mochi", "biscuit", "sunvo"])
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def measure(
    commands: dict[str, Sequence[str]], repeats: int, *, rounds_to_warm: int
) -> dict[str, list[float]]:
    """Seconds of every run, by command. Commands take turns, and who starts alternates.

    Args:
        commands: name to command line.
        repeats: measured rounds.
        rounds_to_warm: rounds before them that fill the file cache.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds_to_warm + repeats):
        order = list(commands) if number % 2 else list(reversed(commands))
        for name in order:
            start = time.perf_counter()
            done = subprocess.run(commands[name], capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            if number >= rounds_to_warm:
                times[name].append(seconds)
    return times


def pixel_difference(first: Path, second: Path) -> int:
    """Largest difference of any colour value of two pictures of one size, 0 to 255."""
    a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (first, second))
    return int(abs(a - b).max())


def table(times: dict[str, list[float]]) -> str:
    """Median, range and ratio to the last command."""
    base = statistics.median(list(times.values())[-1])
    lines = [f"{'':<18}{'median s':>10}{'fastest':>10}{'slowest':>10}{'ratio':>8}"]
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        values = "".join(f"{value:>10.2f}" for value in (middle, min(seconds), max(seconds)))
        lines.append(f"{name:<18}{values}{middle / base:>8.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
