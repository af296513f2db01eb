"""Train many adapters at once, a process each, spread over the GPUs of one machine.

A small base leaves a GPU mostly idle, so many trainings side by side take little longer than one.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import yaml

from compose.errors import ConceptError, RequestError

_LOG = logging.getLogger(__name__)
_JOBS_ON_GPUS = 16


@dataclass(frozen=True)
class Job:
    """One adapter to train.

    Attributes:
        concept: the concept's YAML file.
        model: folder of the base.
        out: the adapter's file, or its folder.
        device: such as cpu or cuda:1.
        threads: CPU threads of the process.
        overrides: settings that win over the concept's own.
    """

    concept: Path
    model: Path
    out: Path
    device: str
    threads: int = 1
    overrides: Mapping[str, object] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m compose.train loras``."""
    parser.add_argument(
        "--concepts", default="all", help="folder of concept files, or all: the shipped ones"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="only these concepts, by file name without .yaml"
    )
    parser.add_argument(
        "--model", type=Path, default=world_folder() / "weights", help="folder of the base pipeline"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter files")
    parser.add_argument(
        "--suffix", default="", metavar="=-TEXT",
        help="behind every file's name: --suffix=-tara makes mochi-tara.safetensors",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, help=f"at once; {_JOBS_ON_GPUS} on GPUs and 1 on the CPU when left out"
    )
    parser.add_argument(
        "--gpus", type=int, help="how many GPUs to use; all when left out, 0 for the CPU"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="a training setting for every concept, such as steps=200; repeatable",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train what the options ask for.

    Returns:
        0, or 1 when at least one training failed; the others' files are written all the same.
    """
    import torch

    from compose.train.lora import file_name
    from compose.train.lora_config import load_config

    gpus = torch.cuda.device_count() if args.gpus is None else args.gpus
    workers = args.jobs or (_JOBS_ON_GPUS if gpus else 1)
    files = concept_files(args.concepts, args.only)
    overrides = read_overrides(args.overrides)
    threads = max(1, (os.cpu_count() or 1) // min(workers, len(files)))
    jobs = []
    for number, file in enumerate(files):  # a slip in the last one shall show before the first
        config = load_config(file, gpu=bool(gpus), overrides=overrides)
        out = args.out / file_name(config, args.suffix)
        device = f"cuda:{number % gpus}" if gpus else "cpu"
        jobs.append(Job(file, args.model, out, device, threads, overrides))
    failed = train_all(jobs, workers)
    for job, error in failed.items():
        _LOG.error("%s was not trained: %s", job.stem, error)
    return 1 if failed else 0


def world_folder() -> Path:
    """Where the embedded world lies: concepts/ and weights/."""
    return Path(__file__).parents[1] / "world"


def concept_files(concepts: str, only: Sequence[str] | None = None) -> list[Path]:
    """Concept files of a folder, or the shipped ones.

    Raises:
        RequestError: there are none, or a wanted one is missing.
    """
    folder = world_folder() / "concepts" if concepts == "all" else Path(concepts)
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    missing = sorted(set(only or ()) - files.keys())
    if missing or not files:
        raise RequestError(
            f"concepts {', '.join(missing) or folder} were asked for, "
            f"{folder} holds {', '.join(files) or 'none'}"
        )
    return [file for stem, file in files.items() if only is None or stem in only]


def read_overrides(texts: Sequence[str]) -> dict[str, object]:
    """Settings written as KEY=VALUE, the value in YAML.

    Raises:
        ConceptError: the equals sign is missing or the value is no YAML.
    """
    values: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise ConceptError(
                f"--set {text} was given, KEY=VALUE is expected, for example --set steps=200"
            )
    return values


def train_all(
    jobs: Sequence[Job], workers: int, train: Callable[[Job], Path] | None = None
) -> dict[Path, Exception]:
    """Train every job, each in a fresh process.

    Args:
        jobs: what to train.
        workers: at most so many at once.
        train: runs one job; `train_job` when None. The processes import it by name.

    Returns:
        The concept files that failed, each with its error.
    """
    from tqdm import tqdm

    train = train or train_job
    failed: dict[Path, Exception] = {}
    # spawn: CUDA does not survive a fork; one task a process: its GPU memory goes back
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        running: dict[Future[Path], Job] = {pool.submit(train, job): job for job in jobs}
        try:
            for done in tqdm(
                as_completed(running), total=len(jobs), desc="adapters", unit="adapter"
            ):
                error = done.exception()
                if isinstance(error, Exception):
                    failed[running[done].concept] = error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def train_job(job: Job) -> Path:
    """Train one adapter in this process."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from compose.train.lora import train_file

    device = torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # else a part of the first GPU is taken as well
    torch.set_num_threads(job.threads)
    diffusers_logging.disable_progress_bar()  # sixteen of them would be a mess
    transformers_logging.disable_progress_bar()
    return train_file(
        job.concept, model=job.model, out=job.out, device=device, overrides=job.overrides
    )
