"""Versions of two adapters beside one another: who is still who, under which method?

Counts pictures of the embedded world that the recognizer finds right. Rows:
  alone       one adapter, one figure: species and colour right; in full (pattern too)
  beside      one adapter and a figure of the base's beside it, of its species: both right in place
  METHOD      both adapters: both right in place, each right in place, some attribute bled over

Where one adapter is used, it is under tara if it was made for it, else merged. Fields of methods
follow them: "tara,uncond=false".

    python benchmarks/adapter_versions.py --adapters runs/adapters --suffix "" --suffix=-tara
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from compose.composer import Composer
from compose.evaluate.cases import Case, make_cases
from compose.evaluate.judge import concept_demand
from compose.evaluate.rows import regions
from compose.evaluate.statistics import Figure
from compose.evaluate.suite import Group, Suite
from compose.fusion import method
from compose.request import AdapterUse, Request
from compose.world.captions import caption
from compose.world.concept_captions import concept_caption
from compose.world.concepts import Concept, concept_scenes, shipped
from compose.world.reading import load_recognizer, read
from compose.world.sampling import placed_things, sample_scene
from compose.world.scene import Scene
from compose.world.score import Expectation, Expected, SceneScore, expectation, score

Asked = tuple[Request, Expectation]
METHODS = ("merge", "tara", "regional", "tara*regional")


def main() -> None:
    """Measure and print a table."""
    args = _arguments()
    concepts = {c.name: c for c in shipped()}
    pair = [concepts[name] for name in args.pair]
    recognizer = load_recognizer()
    print("| adapters | row | right | of |\n|---|---|---|---|")
    with Composer.load(args.model, device=args.device) as composer:
        for suffix in args.suffix or [""]:
            files = {c.name: str(args.adapters / f"{c.name}{suffix}.safetensors") for c in pair}
            made_for = composer.library.find(files[pair[0].name]).made_for
            own = args.own or made_for or "merge"
            rows = {
                "alone": _alone(pair, own),
                "beside": _beside(pair, own),
                **{name: _both(pair, name, args.n) for name in args.methods},
            }
            for name in args.rows or rows:
                found = [
                    score(read(recognizer, _pixels(composer, request, files, args))[0], wanted)
                    for request, wanted in islice(rows[name], args.n)
                ]
                _tell(f"{args.pair[0]}, {args.pair[1]}{suffix}", name, found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=Path, default=Path("compose/world/adapters"))
    parser.add_argument("--suffix", action="append", help="of the files; repeatable")
    parser.add_argument("--pair", nargs=2, default=["mochi", "ember"])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--own", help="method where one adapter is used")
    parser.add_argument("--rows", nargs="+", help="some of the rows alone")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--n", type=int, default=24, help="pictures a row")
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def _alone(pair: Sequence[Concept], kind: str) -> Iterator[Asked]:
    """Fresh scenes of one concept, either in turn."""
    scenes = [concept_scenes(concept, 200, 52_001) for concept in pair]
    rng = random.Random("two of a kind, alone")
    for number, both in enumerate(zip(*scenes, strict=True)):
        for concept, scene in zip(pair, both, strict=True):
            prompt = concept_caption(concept, scene, rng)
            _, whole = concept_demand(concept, scene)
            yield _request(prompt, [concept], kind, number), whole


def _beside(pair: Sequence[Concept], kind: str) -> Iterator[Asked]:
    """One concept and one figure of the base's, of the same species and another colour."""
    rng = random.Random("two of a kind, beside")
    for number in range(200):
        concept, at = pair[number % 2], number // 2 % 2
        drawn = sample_scene(rng, words="base", count=2)
        species = str((concept.thing or {})["species"])
        plain = tuple(
            replace(t, species=species, pattern="plain", second=None, accessory="none",
                    accessory_colour=None)
            for t in drawn.things
        )  # fmt: skip
        scene = concept.apply(replace(drawn, things=plain), at)
        scene = replace(scene, things=tuple(placed_things(rng, scene.things)))
        called = f"{concept.trigger} {concept.class_word}"
        prompt = caption(scene, rng, full=True, names={at: called})
        yield _request(prompt, [concept], kind, number), _looks(scene)


def _looks(scene: Scene) -> Expectation:
    """Species, colour and place of every thing."""
    things = expectation(scene).things
    return Expectation(tuple(Expected(t.species, t.colour, place=t.place) for t in things))


def _both(pair: Sequence[Concept], kind: str, count: int) -> Iterator[Asked]:
    """The two concepts in one picture, as the evaluation suites ask for them."""
    names = tuple(concept.name for concept in pair)
    suite = Suite("two of a kind", "", count, 20, (Group("pair", (names,)),))
    by_name = {concept.name: concept for concept in pair}
    for case, seed in make_cases(suite, count):
        request = _request(case.prompt, [by_name[n] for n in case.adapters], kind, case.noise(seed))
        yield _placed(request, case), Expectation(case.asked.expectation.things)


def _placed(request: Request, case: Case) -> Request:
    if "regions" not in request.method.needs:
        return request
    boxes = zip(request.adapters, regions(case), strict=True)
    return replace(request, adapters=tuple(replace(a, region=box) for a, box in boxes))


def _request(prompt: str, used: Sequence[Concept], kind: str, seed: int) -> Request:
    adapters = tuple(AdapterUse(concept.name) for concept in used)
    name, *fields = kind.split(",")
    how = method(name).parse(dict(field.split("=", 1) for field in fields))
    return Request(prompt, adapters=adapters, method=how, seeds=(seed,), guidance=4.0)


def _pixels(
    composer: Composer, request: Request, files: dict[str, str], args: argparse.Namespace
) -> torch.Tensor:
    """The picture of a request whose adapters are named by their concepts, [1, 3, 128, 128]."""
    used = tuple(replace(use, name=files[use.name]) for use in request.adapters)
    made = composer.generate(replace(request, adapters=used, steps=args.steps)).images[0].image
    return torch.from_numpy(np.array(made)).permute(2, 0, 1)[None].float() / 255


def _tell(version: str, row: str, found: Sequence[SceneScore]) -> None:
    things = [thing for one in found for thing in one.things]
    counts = {"each right": [t.colour_species for t in things]}
    if row != "beside":
        counts["in full"] = [t.identity for t in things]
    if row != "alone":
        both = [s.colour_species for s in found]
        counts = {"both right": both, **counts, "bled": [s.bleed for s in found]}
    for name, truths in counts.items():
        figure = Figure.of(name, truths)
        print(f"| {version} | {row}: {name} | {sum(truths)} | {figure.total} |", flush=True)


if __name__ == "__main__":
    main()
