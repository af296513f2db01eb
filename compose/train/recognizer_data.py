"""What the recognizer learns from: renders of the world and the truth about them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context

import torch
from torch import Tensor

from compose.train.drawing import draw, draw_ahead, lot_size
from compose.world.recognizer import (
    COLOUR_HEADS,
    COLOURLESS_STYLES,
    NONE,
    PICTURE_HEADS,
    SIZE,
    THING_HEADS,
)
from compose.world.renderer import Table, pack
from compose.world.sampling import Words, sample_scene
from compose.world.scene import Scene, Thing

IGNORE = -100
_SLOTS = 3
_COUNTS, _SHARES = (1, 2, 3), (0.25, 0.4, 0.35)
_INDEX = {n: {w: i for i, w in enumerate(ws)} for n, ws in {**THING_HEADS, **PICTURE_HEADS}.items()}


@dataclass
class Labels:
    """Truth about N pictures with S places for things.

    Attributes:
        boxes: [N, S, 3] centre x, centre y, height; fractions of the picture.
        present: [N, S] bool.
        unsure: [N, S] bool: half there; neither a thing nor background.
        words: [N, S, 6] word of each of `THING_HEADS`, -100 where it cannot be told.
        identity: [N, S] equal for things with equal attributes.
        picture: [N, 2] word of each of `PICTURE_HEADS`, -100 where it cannot be told.
    """

    boxes: Tensor
    present: Tensor
    unsure: Tensor
    words: Tensor
    identity: Tensor
    picture: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Labels:
        """The same function on every tensor."""
        return Labels(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def at(self, rows: Tensor) -> Labels:
        """Labels of some pictures."""
        return self.map(lambda part: part[rows])

    @staticmethod
    def join(parts: Sequence[Labels]) -> Labels:
        """Labels of several lots, one after another."""
        names = [f.name for f in fields(Labels)]
        return Labels(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        )


def label(scenes: Sequence[Scene]) -> Labels:
    """Truth of scenes: [N, 3, ...] on the CPU."""
    n = len(scenes)
    made = Labels(
        boxes=torch.full((n, _SLOTS, 3), 0.5),
        present=torch.zeros(n, _SLOTS, dtype=torch.bool),
        unsure=torch.zeros(n, _SLOTS, dtype=torch.bool),
        words=torch.full((n, _SLOTS, len(THING_HEADS)), IGNORE),
        identity=torch.zeros(n, _SLOTS, dtype=torch.long),
        picture=torch.zeros(n, len(PICTURE_HEADS), dtype=torch.long),
    )
    for i, scene in enumerate(scenes):
        for head, name in enumerate(PICTURE_HEADS):
            made.picture[i, head] = _INDEX[name][getattr(scene, name)]
        for j, thing in enumerate(scene.things):
            made.boxes[i, j] = torch.tensor([thing.x, thing.y, thing.size])
            made.present[i, j] = True
            made.identity[i, j] = _identity(thing)
            for head, name in enumerate(THING_HEADS):
                if _told(thing, scene.style, name):
                    made.words[i, j, head] = _INDEX[name][getattr(thing, name) or NONE]
    return made


def _told(thing: Thing, style: str, name: str) -> bool:
    """Whether the truth about an attribute is known and can be seen."""
    if name in COLOUR_HEADS and style in COLOURLESS_STYLES:
        return False
    return name != "second" or thing.second is not None or thing.pattern == "plain"


def _identity(thing: Thing) -> int:
    return zlib.crc32("|".join(str(getattr(thing, name)) for name in THING_HEADS).encode())


def draw_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes to learn from, half base words and half all words.

    Neighbours 2i and 2i + 1 share one character, so that the embedding can learn what makes two
    views the same. Some characters stand where the sampler would never put them, since a generated
    picture may place them anywhere.
    """
    rng = random.Random(f"recognizer scenes {seed}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        words: Words = "base" if rng.random() < 0.5 else "all"
        pair = [
            sample_scene(rng, words=words, count=rng.choices(_COUNTS, _SHARES)[0]) for _ in range(2)
        ]
        shared = rng.choice(pair[0].things)
        pair[1] = _with(pair[1], rng.randrange(len(pair[1].things)), shared)
        scenes += [_disturb(scene, rng) for scene in pair]
    return scenes[:count]


def _with(scene: Scene, index: int, like: Thing) -> Scene:
    """The scene with one thing wearing what another wears, where it stood."""
    kept = scene.things[index]
    new = replace(
        like, x=kept.x, y=kept.y, size=kept.size, flip=kept.flip, tilt=kept.tilt, pose=kept.pose
    )
    return replace(scene, things=(*scene.things[:index], new, *scene.things[index + 1 :]))


def _disturb(scene: Scene, rng: random.Random) -> Scene:
    """Now and then an empty scene, a double, or things in odd places."""
    luck = rng.random()
    if luck < 0.02:
        return replace(scene, things=())
    if luck < 0.06 and len(scene.things) > 1:
        return _with(scene, 1, scene.things[0])
    if luck < 0.22:
        return replace(scene, things=tuple(_astray(thing, rng) for thing in scene.things))
    return scene


def _astray(thing: Thing, rng: random.Random) -> Thing:
    scale = rng.uniform(0.8, 1.15)
    x = min(0.85, max(0.15, thing.x + rng.uniform(-0.1, 0.1)))
    y = min(0.8, max(0.3, thing.y + rng.uniform(-0.12, 0.08)))
    return thing.at(x, y, thing.size * scale)


def _lot(job: tuple[int, int]) -> tuple[Table, Labels]:
    """One worker's share: packed scenes and their labels."""
    torch.set_num_threads(1)
    scenes = draw_scenes(*job)
    return pack(scenes), label(scenes)


def make_pictures(
    count: int, seed: int, device: torch.device, *, workers: int = 0, lot: int = 4096
) -> tuple[Tensor, Labels]:
    """Draw scenes in worker processes and render them on the device.

    Args:
        count: pictures; rounded up to an even number.
        seed: another seed gives other pictures.
        device: where they are rendered and stay.
        workers: processes; 0 draws in this one.
        lot: scenes a job, even; several jobs are drawn at once.

    Returns:
        [N, 3, 128, 128] uint8 on the device, and their labels there.
    """
    count += count % 2
    jobs = [(min(lot, count - i), seed * 100_003 + i // lot) for i in range(0, count, lot)]
    pictures = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
    labels: list[Labels] = []
    start = 0
    tables = _tables(_lots(jobs, workers), lot_size(device), labels)
    for drawn in draw_ahead(tables, device, draw):
        pictures[start : start + len(drawn)] = drawn
        start += len(drawn)
    return pictures, Labels.join(labels).map(lambda part: part.to(device))


def _tables(
    lots: Iterable[tuple[Table, Labels]], size: int, labels: list[Labels]
) -> Iterator[Table]:
    """Tables of at least `size` scenes, but for the last one; puts the labels aside."""
    waiting: list[Table] = []
    for table, truth in lots:
        waiting.append(table)
        labels.append(truth)
        if sum(map(len, waiting)) >= size:
            yield Table.join(waiting)
            waiting = []
    if waiting:
        yield Table.join(waiting)


def _lots(jobs: Sequence[tuple[int, int]], workers: int) -> Iterator[tuple[Table, Labels]]:
    if not workers or len(jobs) == 1:
        yield from map(_lot, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_lot, jobs)
