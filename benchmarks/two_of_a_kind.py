"""Two cats or two dogs side by side, from two adapters, each in its half of the picture: does every
one come out as itself, where it belongs? This is the table of docs/regions.md.

    python benchmarks/two_of_a_kind.py merge regional regional,isolate=1,text=places

24 scenes a pair and row, 20 steps, guidance 4, weight 1, judged by the recognizer; two to three
seconds a picture on a CPU core. Rows answer the same scenes with the same noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from compose.composer import Composer
from compose.evaluate.cases import Case, make_cases
from compose.evaluate.rows import regions
from compose.evaluate.statistics import wilson
from compose.evaluate.suite import Group, Suite
from compose.fusion import method
from compose.method import CompositionMethod
from compose.request import AdapterUse, Request
from compose.world.reading import load_recognizer, read
from compose.world.score import SceneScore, score

PAIRS = (("mochi", "ember"), ("biscuit", "domino"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("rows", nargs="+", metavar="METHOD[,FIELD=VALUE...]")
    options.add_argument("--scenes", type=int, default=24, help="of each pair")
    options.add_argument("--model", default="embedded")
    asked = options.parse_args()
    suite = Suite("two_of_a_kind", "", asked.scenes, 20, (Group("pairs", PAIRS),))
    cases = make_cases(suite, asked.scenes)
    recognizer = load_recognizer()
    print("| row | both right | each right | some bled over |\n|---|---|---|---|")
    with Composer.load(asked.model) as composer:
        for row in asked.rows:
            name, *fields = row.split(",")
            chosen = method(name).parse(dict(field.split("=") for field in fields))
            requests = [_request(case, seed, chosen) for case, seed in cases]
            pictures = torch.stack(list(_pictures(composer, requests)))
            readings = read(recognizer, pictures)
            pairs = zip(readings, cases, strict=True)
            print(
                _line(row, [score(r, case.asked.expectation) for r, (case, _) in pairs]), flush=True
            )


def _request(case: Case, seed: int, chosen: CompositionMethod) -> Request:
    uses = [AdapterUse(name) for name in case.adapters]
    if "regions" in chosen.needs:
        placed = zip(uses, regions(case), strict=True)
        uses = [replace(use, region=box) for use, box in placed]
    request = Request(case.prompt, adapters=tuple(uses), method=chosen, guidance=4.0)
    return replace(request, steps=20, seeds=(case.noise(seed),))


def _pictures(composer: Composer, requests: list[Request]) -> Iterator[torch.Tensor]:
    """[3, H, W] in [0, 1]."""
    for request in requests:
        (made,) = composer.generate(request).images
        yield torch.from_numpy(np.array(made.image)).permute(2, 0, 1) / 255


def _line(row: str, scores: list[SceneScore]) -> str:
    both = sum(s.colour_species for s in scores)
    each = [thing.colour_species for s in scores for thing in s.things]
    low, high = (round(100 * bound) for bound in wilson(both, len(scores)))
    bled = sum(s.bleed for s in scores)
    return (
        f"| `{row}` | {both} of {len(scores)} ({low} to {high} %) | {sum(each)} of {len(each)} |"
        f" {bled} of {len(scores)} |"
    )


if __name__ == "__main__":
    main()
