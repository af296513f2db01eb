"""How sure and how good a trained recognizer is: calibration, and a check on fresh scenes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from compose.train.recognizer_data import IGNORE, Labels
from compose.world.reading import find_peaks, read
from compose.world.recognizer import PICTURE_HEADS, THING_HEADS, Recognizer
from compose.world.renderer import render
from compose.world.sampling import sample_scene
from compose.world.score import ATTRIBUTES, SceneScore, score

Harvest = Mapping[str, tuple[Tensor, Tensor]]
"""Head to logits [T, words] and right words [T]."""

_BATCH = 256
_LOW, _HIGH, _TRIES = 0.25, 4.0, 49  # temperatures tried, evenly by ratio


@torch.inference_mode()
def harvest(network: Recognizer, pictures: Tensor, truth: Labels) -> Harvest:
    """Logits of every head beside what is right.

    Args:
        network: in evaluation mode.
        pictures: [N, 3, 128, 128] uint8.
        truth: their labels.
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in (*THING_HEADS, *PICTURE_HEADS)}
    right: dict[str, list[Tensor]] = {name: [] for name in logits}
    for start in range(0, len(pictures), _BATCH):
        rows = torch.arange(start, min(start + _BATCH, len(pictures)), device=pictures.device)
        features, part = network(pictures[rows].float() / 255), truth.at(rows)
        owner, slot = part.present.nonzero(as_tuple=True)
        seen = network.describe(features, owner, part.boxes[owner, slot])
        for i, name in enumerate(THING_HEADS):
            logits[name].append(seen[name])
            right[name].append(part.words[owner, slot, i])
        for i, name in enumerate(PICTURE_HEADS):
            logits[name].append(features.picture[name])
            right[name].append(part.picture[:, i])
    return {name: (torch.cat(logits[name]), torch.cat(right[name])) for name in logits}


def calibrate(held: Harvest) -> dict[str, float]:
    """The temperature of each head that makes its probabilities honest (Guo et al., 2017,
    temperature scaling).

    Args:
        held: of pictures the network never learned from.

    Returns:
        Head -> divisor of the logits, 0.25 to 4, of the least negative log-likelihood.
    """
    ratio = (_HIGH / _LOW) ** (1 / (_TRIES - 1))
    tries = [_LOW * ratio**i for i in range(_TRIES)]
    best: dict[str, float] = {}
    for name, (logits, right) in held.items():
        told = right != IGNORE
        costs = [
            float(F.cross_entropy(logits[told] / t, right[told])) if told.any() else 0.0
            for t in tries
        ]
        best[name] = tries[min(range(_TRIES), key=costs.__getitem__)] if told.any() else 1.0
    return best


@torch.inference_mode()
def fit_threshold(network: Recognizer, pictures: Tensor, truth: Labels) -> float:
    """The least peak height at which most pictures show as many things as they hold.

    Args:
        network: in evaluation mode.
        pictures: [N, 3, 128, 128] uint8.
        truth: their labels.

    Returns:
        0.2 to 0.6; the middle of the best ones.
    """
    right = dict.fromkeys((round(0.2 + 0.02 * i, 2) for i in range(21)), 0)
    for start in range(0, len(pictures), _BATCH):
        features = network(pictures[start : start + _BATCH].float() / 255)
        wanted = truth.present[start : start + _BATCH].sum(1)
        for least in right:
            rows = find_peaks(features, least).rows
            right[least] += int((torch.bincount(rows, minlength=len(wanted)) == wanted).sum())
    best = [least for least, count in right.items() if count == max(right.values())]
    return best[len(best) // 2]


def check(
    recognizer: Recognizer, count: int, seed: int, soften: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[str, float | int | str]]:
    """Right answers on fresh scenes: base and all words, one to three things, also softened.

    Args:
        recognizer: ready for inference.
        count: scenes a row.
        seed: another seed draws other scenes.
        soften: sends [N, 3, 128, 128] through a VAE; None for clean renders only.

    Yields:
        What was looked at, and share right of each attribute and of whole pictures.
    """
    device = next(recognizer.parameters()).device
    for words in ("base", "all"):
        for things in (1, 2, 3):
            rng = random.Random(f"recognizer check {seed} {words} {things}")
            scenes = [sample_scene(rng, words=words, count=things) for _ in range(count)]
            scores: dict[str, list[SceneScore]] = {"render": [], "vae": []}
            for start in range(0, count, _BATCH):
                part = scenes[start : start + _BATCH]
                images = render(part, device=device)
                scores["render"] += map(score, read(recognizer, images), part)
                if soften is not None:
                    scores["vae"] += map(score, read(recognizer, soften(images)), part)
            for kind, judged in scores.items():
                if judged:
                    yield {"pictures": kind, "words": words, "things": things, **shares(judged)}


def shares(scores: list[SceneScore]) -> dict[str, float | int | str]:
    """Share right of every attribute (where asked), of counts, places and whole pictures.

    Args:
        scores: at least one.
    """
    n = len(scores)
    things = [thing for one in scores for thing in one.things]
    row: dict[str, float | int | str] = {"n": n, "all_right": sum(s.all_right for s in scores) / n}
    for name in ATTRIBUTES:
        asked = [thing.right[name] for thing in things if name in thing.right]
        row[name] = sum(asked) / max(1, len(asked))
    row["place"] = sum(thing.place for thing in things) / max(1, len(things))
    row["counted"] = sum(not s.extra and not s.vanished for s in scores) / n
    row["background"] = sum(s.background for s in scores) / n
    row["style"] = sum(s.style for s in scores) / n
    return row
