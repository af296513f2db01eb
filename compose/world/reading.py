"""From a picture to words: what stands where, what it wears, before what, in which style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from compose.world.recognizer import (
    GRID,
    NONE,
    PICTURE_HEADS,
    THING_HEADS,
    Features,
    Recognizer,
)
from compose.world.recognizer_file import load_recognizer

__all__ = [
    "Peaks",
    "Reading",
    "Seen",
    "embeddings",
    "find_peaks",
    "load_recognizer",
    "read",
]

_MOST = 12  # things looked for in one picture
_APART = 0.3  # two centres nearer than this share of the smaller height are one thing
_CHUNK = 64  # pictures a forward pass


@dataclass(frozen=True)
class Seen:
    """One thing seen in a picture.

    Attributes:
        species, colour, pattern, accessory: words of the vocabulary.
        second: colour word of the pattern, None where there is no pattern.
        accessory_colour: colour word, None when nothing is worn.
        x, y: centre as fractions of width and height, origin top left.
        size: height as a fraction of the picture.
        score: how sure it is that a thing is there, 0 to 1.
        probabilities: head -> [words of that head] calibrated probabilities, in the order of
            `THING_HEADS`.
        embedding: [64] of unit length; near for two views of the same character.
    """

    species: str
    colour: str
    pattern: str
    second: str | None
    accessory: str
    accessory_colour: str | None
    x: float
    y: float
    size: float
    score: float = 1.0
    probabilities: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    embedding: Tensor | None = field(default=None, compare=False, repr=False)

    def probability(self, head: str, word: str) -> float:
        """How likely an attribute has a value: ``seen.probability("colour", "red")``, 0 to 1."""
        return float(self.probabilities[head][THING_HEADS[head].index(word)])


@dataclass(frozen=True)
class Reading:
    """One picture as the recognizer sees it.

    Attributes:
        things: left to right.
        background, style: words of the vocabulary.
        probabilities: "background" and "style" -> [words] calibrated probabilities.
    """

    things: tuple[Seen, ...]
    background: str
    style: str
    probabilities: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Peaks:
    """Centres found in a batch, T in all.

    Attributes:
        rows: [T] picture of each.
        boxes: [T, 3] centre x, centre y and height, fractions of the picture.
        scores: [T] peak heights in (0, 1).
    """

    rows: Tensor
    boxes: Tensor
    scores: Tensor


def find_peaks(features: Features, threshold: float) -> Peaks:
    """Centres of things: local maxima of the heatmap, refined by offset and size.

    Args:
        features: of the recognizer.
        threshold: least height, 0 to 1.

    Returns:
        The peaks, by picture and falling height; of two nearer than a third of their height only
        the higher.
    """
    heat = features.heat.sigmoid()
    best = F.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
    scores, cells = (heat * (heat == best)).flatten(1).topk(_MOST)  # [N, 12]
    column, row = cells % GRID, cells // GRID
    offset = features.offset.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1))
    size = features.size.flatten(1).gather(1, cells).exp().clamp(0.02, 1.5)
    x, y = (column + offset[:, 0]) / GRID, (row + offset[:, 1]) / GRID
    boxes = torch.stack([x, y, size], 2)  # [N, 12, 3]
    near = (boxes[:, :, None, :2] - boxes[:, None, :, :2]).norm(dim=3)
    same = near < _APART * torch.minimum(size[:, :, None], size[:, None, :])
    keep = scores > threshold
    for i in range(1, _MOST):
        keep[:, i] &= ~(same[:, i, :i] & keep[:, :i]).any(1)
    rows = keep.nonzero()[:, 0]
    return Peaks(rows, boxes[keep], scores[keep])


@torch.inference_mode()
def read(
    recognizer: Recognizer, images: Tensor, *, threshold: float | None = None
) -> list[Reading]:
    """Say what is in pictures.

    Args:
        recognizer: of `load_recognizer`.
        images: [N, 3, 128, 128] in [0, 1], on any device; moved to the recognizer's.
        threshold: least peak height of a thing, 0 to 1; None takes the recognizer's own.

    Returns:
        One reading a picture.

    Raises:
        ShapeError: for pictures of another shape.
    """
    recognizer.eval()
    weight = next(recognizer.parameters())
    least = recognizer.threshold if threshold is None else threshold
    readings: list[Reading] = []
    for start in range(0, len(images), _CHUNK):
        features = recognizer(images[start : start + _CHUNK].to(weight))
        peaks = find_peaks(features, least)
        readings += _words(recognizer, features, peaks)
    return readings


def _words(recognizer: Recognizer, features: Features, peaks: Peaks) -> list[Reading]:
    """Tensors to readings."""
    logits = recognizer.describe(features, peaks.rows, peaks.boxes)
    embedding = logits.pop("embedding").cpu()
    heat = recognizer.temperatures
    chances = {name: (part / heat[name]).softmax(1).cpu() for name, part in logits.items()}
    whole = {n: (part / heat[n]).softmax(1).cpu() for n, part in features.picture.items()}
    things: list[list[Seen]] = [[] for _ in range(len(features.heat))]
    places, scores = peaks.boxes.tolist(), peaks.scores.tolist()
    for i, row in enumerate(peaks.rows.tolist()):
        chance = {name: part[i] for name, part in chances.items()}
        things[row].append(_seen(chance, places[i], scores[i], embedding[i]))
    readings = []
    for i, found in enumerate(things):
        chance = {name: part[i] for name, part in whole.items()}
        words = {name: PICTURE_HEADS[name][int(part.argmax())] for name, part in chance.items()}
        ordered = tuple(sorted(found, key=lambda seen: seen.x))
        readings.append(Reading(ordered, words["background"], words["style"], chance))
    return readings


def _seen(
    chance: Mapping[str, Tensor], box: Sequence[float], score: float, embedding: Tensor
) -> Seen:
    """One thing in words."""
    words = {name: THING_HEADS[name][int(part.argmax())] for name, part in chance.items()}
    return Seen(
        species=words["species"],
        colour=words["colour"],
        pattern=words["pattern"],
        second=None if words["second"] == NONE else words["second"],
        accessory=words["accessory"],
        accessory_colour=None if words["accessory_colour"] == NONE else words["accessory_colour"],
        x=box[0],
        y=box[1],
        size=box[2],
        score=score,
        probabilities=chance,
        embedding=embedding,
    )


def embeddings(recognizer: Recognizer, images: Tensor) -> Tensor:
    """Embeddings of the surest thing of each picture, the references of `score.similarity`.

    Args:
        recognizer: of `load_recognizer`.
        images: [N, 3, 128, 128] in [0, 1], one character in each.

    Returns:
        [R, 64], R <= N: pictures in which nothing is seen are left out.
    """
    found = [
        max(r.things, key=lambda s: s.score).embedding for r in read(recognizer, images) if r.things
    ]
    kept = [e for e in found if e is not None]
    return torch.stack(kept) if kept else torch.zeros(0, recognizer.embed.out_features)
