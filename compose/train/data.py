"""Scenes and captions for training: made by worker processes as small shards on disk, drawn on the
device.

A shard, a safetensors file, holds the renderer's table of its scenes and, for base scenes, several
captions each as token ids. Pictures are never stored: every training process draws its own share
at its start, many shards at once, and keeps it as uint8.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from compose.errors import ModelError
from compose.train.common import RunDir, load_tensors, save_tensors
from compose.train.drawing import draw, draw_ahead, draw_worn, lot_size
from compose.train.ranks import Ranks
from compose.train.tokenizer import Lookup, build_tokenizer
from compose.world.captions import caption
from compose.world.renderer import Table, pack
from compose.world.sampling import sample_scene

Words = Literal["base", "all"]
SHARD = 2048
# The base learns from richer scenes than it is judged on: pairs and what they wear are hard.
COUNT_SHARES = (0.25, 0.6, 0.15)  # scenes of one, two and three things
DRESSED = 0.55  # animals that wear something


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
        shares: of base scenes with one, two and three things.
        dressed: share of the animals of base scenes that wear something.
    """

    path: Path
    words: Words
    count: int
    captions: int
    seed: str
    lookup: Lookup
    shares: tuple[float, float, float] = COUNT_SHARES
    dressed: float = DRESSED


def make_shard(job: ShardJob) -> Path:
    """Draw the scenes and captions of one shard and write it; a shard that exists is left alone."""
    if job.path.exists():
        return job.path
    torch.set_num_threads(1)
    rng = random.Random(job.seed)
    tokens = torch.empty(0, dtype=torch.int16)
    if job.words == "base":
        scenes = [
            sample_scene(rng, shares=job.shares, dressed=job.dressed) for _ in range(job.count)
        ]
        rows = [
            job.lookup.encode_many(caption(scene, rng) for _ in range(job.captions))
            for scene in scenes
        ]
        tokens = torch.tensor(rows, dtype=torch.int16)
    else:
        scenes = [sample_scene(rng, words="all") for _ in range(job.count)]
    table = pack(scenes)
    save_tensors(
        {"rows": table.rows, "counts": table.counts, "styles": table.styles, "tokens": tokens},
        job.path,
    )
    return job.path


def shard_jobs(
    run: RunDir, words: Words, scenes: int, captions: int, seed: int, lookup: Lookup
) -> list[ShardJob]:
    """The shards that make up a data set of so many scenes."""
    folder = run.stage("data")
    sizes = [min(SHARD, scenes - start) for start in range(0, scenes, SHARD)]
    return [
        ShardJob(
            folder / f"{words}_{index:04d}.safetensors",
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
    if workers == 0 or not jobs:
        yield from map(make_shard, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        yield from pool.imap_unordered(make_shard, jobs)


@dataclass(frozen=True)
class Pictures:
    """A rank's share of the data, on its device.

    Attributes:
        images: [N, 3, 128, 128] uint8.
        tokens: [N, C, 40] int16 caption ids; no rows for scenes without captions.
        worn: [N, 32, 32] uint8, how much of each place is an accessory, 255 for all of it; no rows
            where nobody asked.
    """

    images: Tensor
    tokens: Tensor
    worn: Tensor


def shard_lots(
    run: RunDir, words: Words, ranks: Ranks, limit: int | None = None
) -> list[tuple[Path, ...]]:
    """This rank's shards, in the lots in which they are drawn.

    Args:
        run: the run with the data.
        words: "base" or "all".
        ranks: who we are.
        limit: at most so many scenes, in whole shards.
    """
    files = sorted((run.path / "data").glob(f"{words}_*.safetensors"))
    if not files:
        raise ModelError(f"no {words} scenes in {run.path / 'data'}: run the stage data first")
    if len(files) < ranks.size:
        raise ModelError(
            f"{len(files)} shards for {ranks.size} processes: ask for more scenes or fewer GPUs"
        )
    size = min(lot_size(ranks.device) // SHARD, len(files) // ranks.size)
    lots = [tuple(files[start : start + size]) for start in range(0, len(files), size)]
    own = lots[ranks.rank :: ranks.size]
    if limit is None:
        return own
    few = [path for lot in own for path in lot][: math.ceil(limit / SHARD)]
    return [tuple(few[start : start + size]) for start in range(0, len(few), size)]


def read_lot(paths: Sequence[Path]) -> tuple[Table, Tensor]:
    """The scenes of several shards as one table, and their tokens [N, C, 40] int16."""
    shards = [load_tensors(path) for path in paths]
    tables = [Table(shard["rows"], shard["counts"], shard["styles"]) for shard in shards]
    return Table.join(tables), torch.cat([shard["tokens"] for shard in shards])


def draw_lots(
    lots: Sequence[Sequence[Path]], device: torch.device, *, worn: bool = False
) -> Iterator[Pictures]:
    """Read and draw lots of shards, one after the other, with what is worn if asked."""
    tokens: deque[Tensor] = deque()

    def tables() -> Iterator[Table]:
        for lot in lots:
            table, rows = read_lot(lot)
            tokens.append(rows)
            yield table

    def both(table: Table, device: torch.device) -> tuple[Tensor, Tensor]:
        none = torch.empty(0, 32, 32, dtype=torch.uint8, device=device)
        return draw(table, device), draw_worn(table, device) if worn else none

    for images, shares in draw_ahead(tables(), device, both):
        yield Pictures(images, tokens.popleft().to(device), shares)


def draw_share(run: RunDir, words: Words, ranks: Ranks, limit: int | None = None) -> Pictures:
    """Draw this rank's share of a data set; arguments as of `shard_lots`."""
    parts = list(draw_lots(shard_lots(run, words, ranks, limit), ranks.device))
    return Pictures(
        torch.cat([part.images for part in parts]),
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.worn for part in parts]),
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
    return draw(table, device)
