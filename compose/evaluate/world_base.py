"""How well the recognizer reads, how well the base follows words, how long it takes."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Literal

import torch

from compose.evaluate.bench import Bench
from compose.evaluate.generate import generate
from compose.evaluate.judge import Judged, attribute_figures, judge
from compose.evaluate.sheets import Cell
from compose.evaluate.statistics import Figure, Report
from compose.world.captions import caption
from compose.world.renderer import render
from compose.world.sampling import sample_scene
from compose.world.scene import Scene
from compose.world.score import Expectation, expectation

Words = Literal["base", "all"]
Wording = Literal["train", "held_out", "fresh", "plain"]
_WORDS: tuple[Words, ...] = ("base", "all")
_WORDINGS: tuple[Wording, ...] = ("train", "held_out", "fresh", "plain")
_SHOWN = 32  # cells of each sheet's part


def fresh_scenes(label: str, count: int, things: int, words: Words = "base") -> list[Scene]:
    """Scenes that no training drew: the label is their seed."""
    rng = random.Random(f"measure {label} {words} {things}")
    return [sample_scene(rng, words=words, count=things) for _ in range(count)]


def measure_recognizer(bench: Bench) -> tuple[Report, list[Cell]]:
    """Right answers on fresh renders: base and all words, one to three things."""
    figures: list[Figure] = []
    cells: list[Cell] = []
    for words in _WORDS:
        for things in (1, 2, 3):
            scenes = fresh_scenes("recognizer", bench.count, things, words)
            images = torch.cat(
                [render(part, device=bench.device).cpu() for part in _split(scenes, 128)]
            )
            labels = [_title(scene) for scene in scenes]
            judged = judge(
                bench.recognizer, images, labels, [expectation(scene) for scene in scenes]
            )
            name = f"{words} words, {things} thing{'s' * (things > 1)}"
            figures.append(judged.figure(f"{name} / all right", lambda s: s.all_right))
            figures += attribute_figures(name, judged.scores)
            cells += _worst_first(judged, _SHOWN // 2)
    return Report("recognizer", tuple(figures), settings={"n": bench.count}), cells


def measure_base(bench: Bench) -> tuple[Report, list[Cell]]:
    """New prompts that leave nothing unsaid, in training, held-out, fresh and plain wording."""
    figures: list[Figure] = []
    cells: list[Cell] = []
    pipe = bench.pipeline()
    for wording in _WORDINGS:
        for things in (1, 2, 3):
            if things != 2 and wording != "train":
                continue
            judged = _follow(bench, pipe, wording, things)
            name = f"{wording} wording, {things} thing{'s' * (things > 1)}"
            figures.append(
                judged.figure(f"{name} / species and colour, placed", lambda s: s.colour_species)
            )
            figures.append(judged.figure(f"{name} / all right", lambda s: s.all_right))
            figures += attribute_figures(name, judged.scores)
            figures.append(judged.figure(f"{name} / background", lambda s: s.background))
            figures.append(judged.figure(f"{name} / none vanished", lambda s: not s.vanished))
            cells += judged.cells(_SHOWN, lambda s: s.all_right)
    settings = {"n": bench.count, "seed": bench.seed, **asdict(bench.sampling)}
    return Report("base", tuple(figures), settings=settings), cells


def _follow(bench: Bench, pipe: object, wording: Wording, things: int) -> Judged:
    """Generate for one wording and judge."""
    scenes = fresh_scenes("base", bench.count, things)
    rng = random.Random(f"measure words {wording} {things}")
    prompts = [caption(scene, rng, full=True, phrasing=wording) for scene in scenes]
    images = generate(pipe, prompts, bench.sampling, bench.seed)
    return judge(bench.recognizer, images, prompts, [_spoken(scene) for scene in scenes])


def _spoken(scene: Scene) -> Expectation:
    """A full prompt says all but the pattern's second colour."""
    wanted = expectation(scene)
    return replace(wanted, things=tuple(replace(thing, second=None) for thing in wanted.things))


def measure_speed(bench: Bench) -> tuple[Report, list[Cell]]:
    """Seconds a picture, text to pixels, with guidance: one at a time, and in a batch."""
    pipe = bench.pipeline()
    scenes = fresh_scenes("speed", bench.sampling.batch, 2)
    prompts = [caption(scene, random.Random(i), full=True) for i, scene in enumerate(scenes)]
    values: dict[str, float] = {}
    for size in (1, bench.sampling.batch if bench.device.type == "cuda" else 4):
        part = (prompts * size)[:size]
        generate(pipe, part, bench.sampling, 0)  # warm
        times = [_seconds(bench, pipe, part) for _ in range(3)]
        values[f"seconds a picture, batch {size}"] = min(times) / size
    machine = (
        torch.cuda.get_device_name()
        if bench.device.type == "cuda"
        else f"CPU, {platform.machine()}"
    )
    settings = {"machine": machine, "threads": torch.get_num_threads(), **asdict(bench.sampling)}
    return Report("speed", values=values, settings=settings), []


def _seconds(bench: Bench, pipe: object, prompts: list[str]) -> float:
    began = time.perf_counter()
    generate(pipe, prompts, bench.sampling, 0)  # ends on the CPU, so the device is done
    return time.perf_counter() - began


def _worst_first(judged: Judged, count: int) -> list[Cell]:
    """Cells with the wrong ones first: they are what there is to see."""
    cells = judged.cells(len(judged.images), lambda s: s.all_right)
    return sorted(cells, key=lambda cell: not cell.wrong)[:count]


def _title(scene: Scene) -> str:
    things = sorted(scene.things, key=lambda thing: thing.x)
    words = [
        " ".join(w for w in (t.colour, t.pattern, t.species, t.accessory) if w not in _SILENT)
        for t in things
    ]
    return f"{', '.join(words)}, {scene.background}, {scene.style}"


_SILENT = ("plain", "none")


def _split(scenes: list[Scene], size: int) -> Iterator[list[Scene]]:
    for start in range(0, len(scenes), size):
        yield scenes[start : start + size]
