"""Scenes and captions for training: made by worker processes as small shards on disk, drawn on the
device.

A shard holds the renderer's table of its scenes and, for base scenes, several captions each as
token ids. Pictures
are never stored: every training process draws its own share at its start and keeps it as uint8.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from compose.errors import ModelError
from compose.train.common import RunDir
from compose.train.ranks import Ranks
from compose.train.tokenizer import Lookup, build_tokenizer
from compose.world.captions import caption
from compose.world.renderer import pack, render_table
from compose.world.sampling import sample_scene

Words = Literal["base", "all"]
SHARD = 2048


@dataclass(frozen=True)
class ShardJob:
    """One shard to make.

    Attributes:
        path: file to write.
        words: "base" (with captions) or "all" (without).
        count: scenes.
        captions: captions per base scene.
        seed: of the shard.
        lookup: how captions become ids.
    """

    path: Path
    words: Words
    count: int
    captions: int
    seed: str
    lookup: Lookup


def make_shard(job: ShardJob) -> Path:
    """Draw the scenes and captions of one shard and write it; a shard that exists is left alone."""
    if job.path.exists():
        return job.path
    torch.set_num_threads(1)
    rng = random.Random(job.seed)
    scenes = [sample_scene(rng, words=job.words) for _ in range(job.count)]
    tokens = torch.empty(0, dtype=torch.int16)
    if job.words == "base":
        rows = [
            job.lookup.encode_many(caption(scene, rng) for _ in range(job.captions))
            for scene in scenes
        ]
        tokens = torch.tensor(rows, dtype=torch.int16)
    partial = job.path.with_suffix(f".{os.getpid()}.part")
    partial.write_bytes(pickle.dumps({"table": pack(scenes), "tokens": tokens, "count": job.count}))
    os.replace(partial, job.path)
    return job.path


def shard_jobs(
    run: RunDir, words: Words, scenes: int, captions: int, seed: int, lookup: Lookup
) -> list[ShardJob]:
    """The shards that make up a data set of so many scenes."""
    folder = run.stage("data")
    sizes = [min(SHARD, scenes - start) for start in range(0, scenes, SHARD)]
    return [
        ShardJob(
            folder / f"{words}_{index:04d}.pkl",
            words,
            size,
            captions,
            f"{seed}:{words}:{index}",
            lookup,
        )
        for index, size in enumerate(sizes)
    ]


def make_data(
    run: RunDir,
    *,
    scenes: int,
    all_scenes: int,
    captions: int,
    seed: int,
    workers: int,
    deadline: float = math.inf,
) -> bool:
    """Make every shard that is missing.

    Args:
        run: where they go.
        scenes: base scenes, with captions.
        all_scenes: scenes over all words, for the VAE.
        captions: captions per base scene.
        seed: of the data set.
        workers: processes; 0 works in this one.
        deadline: `time.monotonic()` after which it stops and leaves the rest to the next call.

    Returns:
        Whether the data set is complete.
    """
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(run.stage("tokenizer"))
    lookup = Lookup.of(tokenizer)
    jobs = shard_jobs(run, "all", all_scenes, 0, seed, lookup)
    jobs += shard_jobs(run, "base", scenes, captions, seed, lookup)
    jobs = [job for job in jobs if not job.path.exists()]
    started, made = time.monotonic(), 0
    for _ in _made(jobs, workers):
        made += 1
        if time.monotonic() > deadline:
            break
    seconds = time.monotonic() - started
    count = sum(job.count for job in jobs if job.path.exists())
    speed = count / max(seconds, 1e-6)
    run.log("data", shards=made, scenes=count, seconds=seconds, per_second=speed)
    return all(job.path.exists() for job in jobs)


def _made(jobs: list[ShardJob], workers: int) -> Iterator[Path]:
    if workers == 0:
        yield from map(make_shard, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, max(len(jobs), 1))) as pool:
        yield from pool.imap_unordered(make_shard, jobs)


@dataclass(frozen=True)
class Pictures:
    """A rank's share of the data, on its device.

    Attributes:
        images: [N, 3, 128, 128] uint8.
        tokens: [N, C, 40] int16 caption ids; no rows for scenes without captions.
    """

    images: Tensor
    tokens: Tensor


def shard_files(run: RunDir, words: Words, ranks: Ranks) -> list[Path]:
    """This rank's shards."""
    files = sorted((run.path / "data").glob(f"{words}_*.pkl"))
    if not files:
        raise ModelError(f"no {words} scenes in {run.path / 'data'}: run the stage data first")
    if len(files) < ranks.size:
        raise ModelError(
            f"{len(files)} shards for {ranks.size} processes: ask for more scenes or fewer GPUs"
        )
    return files[ranks.rank :: ranks.size]


def read_shard(path: Path) -> dict[str, Any]:
    """A shard of our own making: table, tokens, count."""
    shard: dict[str, Any] = pickle.loads(path.read_bytes())
    return shard


def draw_shard(path: Path, device: torch.device) -> Pictures:
    """Read one shard and draw it.

    Returns:
        Images uint8 and tokens on the device.
    """
    shard = read_shard(path)
    images = render_table(shard["table"], device).mul(255).round_().to(torch.uint8)
    return Pictures(images, shard["tokens"].to(device))


def draw_share(run: RunDir, words: Words, ranks: Ranks, limit: int | None = None) -> Pictures:
    """Draw this rank's share of a data set.

    Args:
        run: the run with the data.
        words: "base" or "all".
        ranks: who we are.
        limit: at most so many scenes, in whole shards.
    """
    parts, count = [], 0
    for path in shard_files(run, words, ranks):
        parts.append(draw_shard(path, ranks.device))
        count += len(parts[-1].images)
        if limit is not None and count >= limit:
            break
    return Pictures(
        torch.cat([part.images for part in parts]), torch.cat([part.tokens for part in parts])
    )


def as_float(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to float in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def fresh_pictures(words: Words, count: int, seed: int, device: torch.device) -> Tensor:
    """Pictures that no data set holds, to judge on.

    Returns:
        [count, 3, 128, 128] uint8 on the device.
    """
    rng = random.Random(f"fresh:{seed}:{words}")
    table = pack([sample_scene(rng, words=words) for _ in range(count)])
    return render_table(table, device).mul(255).round_().to(torch.uint8)
