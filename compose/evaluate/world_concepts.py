"""How well each shipped adapter works alone, and what becomes of two that are simply summed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

from compose.evaluate.bench import Bench
from compose.evaluate.generate import generate, load_adapters, use
from compose.evaluate.judge import Judged, concept_demand, fixed, judge
from compose.evaluate.sheets import Cell
from compose.evaluate.statistics import Figure, Report
from compose.world.captions import caption
from compose.world.concept_captions import concept_caption
from compose.world.concepts import Concept, concept_scenes
from compose.world.sampling import sample_scene
from compose.world.scene import Scene
from compose.world.score import Expectation, SceneScore, expectation

_FRESH = 52_001  # seed of scenes that no adapter was trained on
_SHOWN = 8  # cells a row of the sheet
_MERGES = {
    "sum at weight 1": 1.0,
    "sum at weight 1/2": 0.5,
}  # 1/2: the total strength of one adapter


def measure_concepts(bench: Bench) -> tuple[Report, list[Cell]]:
    """Each adapter alone with its trigger at weight 1, and the base model on the same prompts."""
    concepts = bench.concepts()
    pipe = bench.pipeline()
    load_adapters(pipe, bench.adapters, [concept.name for concept in concepts])
    figures: list[Figure] = []
    cells: list[Cell] = []
    for concept in concepts:
        scenes = concept_scenes(concept, bench.count, _FRESH)
        rng = random.Random(f"measure concept {concept.name}")
        prompts = [concept_caption(concept, scene, rng) for scene in scenes]
        demands = [concept_demand(concept, scene) for scene in scenes]
        least, whole = [d[0] for d in demands], [d[1] for d in demands]
        shown = _made(bench, pipe, {concept.name: 1.0}, prompts, whole)
        figures.append(shown.rescored(least).figure(f"{concept.name} / primary", _met))
        figures.append(shown.figure(f"{concept.name} / full identity", _met))
        cells += shown.cells(_SHOWN, _met)
        bare = _made(bench, pipe, {}, prompts, least)
        figures.append(bare.figure(f"{concept.name} / primary, base model without adapter", _met))
    return Report("concepts", tuple(figures), settings=_settings(bench)), cells


def measure_merge(bench: Bench) -> tuple[Report, list[Cell]]:
    """Every pair of characters, adapters summed: who is still who?

    This is the failure that composition methods repair.
    """
    characters = [concept for concept in bench.concepts() if concept.category == "character"]
    pipe = bench.pipeline()
    load_adapters(pipe, bench.adapters, [concept.name for concept in characters])
    figures: list[Figure] = []
    cells: list[Cell] = []
    for label, weight in _MERGES.items():
        alike: list[SceneScore] = []
        everyone: list[SceneScore] = []
        rows: list[Figure] = []
        for pair in combinations(characters, 2):
            judged = _together(bench, pipe, pair, weight)
            everyone += judged.scores
            same = pair[0].class_word == pair[1].class_word
            alike += judged.scores if same else []
            rows += _pair_figures(f"{label} / {pair[0].name} + {pair[1].name}", judged.scores)[:2]
            cells += judged.cells(_SHOWN, lambda s: s.colour_species)
        figures += _pair_figures(f"{label} / all pairs", everyone)
        figures += _pair_figures(f"{label} / pairs of one species", alike) + rows
    return Report("merge", tuple(figures), settings=_settings(bench)), cells


def _met(score: SceneScore) -> bool:
    """Everything that was asked is there; more things than asked are no fault of a concept."""
    return all(thing.identity for thing in score.things) and score.background and score.style


def _made(
    bench: Bench,
    pipe: Any,
    weights: Mapping[str, float],
    prompts: Sequence[str],
    asked: Sequence[Expectation],
) -> Judged:
    use(pipe, weights)
    return judge(
        bench.recognizer, generate(pipe, prompts, bench.sampling, bench.seed), prompts, asked
    )


def _together(bench: Bench, pipe: Any, pair: Sequence[Concept], weight: float) -> Judged:
    """Generate and judge one pair; each stands left as often as right."""
    rng = random.Random(f"measure merge {pair[0].name} {pair[1].name}")
    scenes = [_scene_of(pair, i % 2 == 1, rng) for i in range(bench.count)]
    names = {i: f"{concept.trigger} {concept.class_word}" for i, concept in enumerate(pair)}
    prompts = [caption(scene, rng, full=True, names=names) for scene in scenes]
    asked = [_demand_of(pair, scene) for scene in scenes]
    return _made(bench, pipe, {concept.name: weight for concept in pair}, prompts, asked)


def _scene_of(pair: Sequence[Concept], swapped: bool, rng: random.Random) -> Scene:
    """The two characters in the places of a sampled scene of two."""
    drawn = sample_scene(rng, words="base", count=2)
    places = sorted(drawn.things, key=lambda thing: thing.x, reverse=swapped)
    scene = replace(drawn, things=tuple(places))
    for index, concept in enumerate(pair):
        scene = concept.apply(scene, index)
    return scene


def _demand_of(pair: Sequence[Concept], scene: Scene) -> Expectation:
    placed = expectation(scene).things
    return Expectation(
        tuple(fixed(concept, at.place) for concept, at in zip(pair, placed, strict=True))
    )


def _pair_figures(name: str, scores: Sequence[SceneScore]) -> list[Figure]:
    things = [thing for score in scores for thing in score.things]
    return [
        Figure.of(f"{name} / both right in species and colour", [s.colour_species for s in scores]),
        Figure.of(f"{name} / each right in species and colour", [t.colour_species for t in things]),
        Figure.of(
            f"{name} / both right in full", [all(t.identity for t in s.things) for s in scores]
        ),
        Figure.of(f"{name} / each right in full", [t.identity for t in things]),
        Figure.of(f"{name} / some attribute bled over", [s.bleed for s in scores]),
        Figure.of(f"{name} / someone vanished", [s.vanished > 0 for s in scores]),
    ]


def _settings(bench: Bench) -> dict[str, object]:
    return {"n": bench.count, "seed": bench.seed, **asdict(bench.sampling)}
