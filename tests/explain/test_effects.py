"""Effects of adapters against requests in which they have no weight, and where they must fall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from compose.composer import Composer
from compose.errors import RequestError
from compose.explain import Explained, Explainer, Explanation
from compose.fusion import method
from compose.fusion.merge import Merge
from compose.fusion.regional import Regional
from compose.fusion.switch import Switch
from compose.passes import Pass
from compose.regions import Box
from compose.request import Request
from compose.run import Run
from compose.types import Step
from tests import engine, tiny
from tests.families import FAMILIES, TinyFamily

WEIGHTS = [1.0, -0.5, 0.8]
LAST = {"sd15": "conv_out", "sdxl": "conv_out", "sd3": "proj_out", "flux": "proj_out"}
"""The last layer of each denoiser: behind it no place sees another."""
HALVES = {"a0": Box(0, 0, 0.5, 1), "a1": Box(0.5, 0, 1, 1)}


@dataclass(frozen=True)
class Setup:
    """A family in double precision, with three adapters."""

    family: TinyFamily
    composer: Composer
    paths: list[Path]

    def asked(self, name: str, weights: Sequence[float] = WEIGHTS, **more: Any) -> Request:
        chosen = method(name)()
        return self.family.request(self.paths[: len(weights)], weights, chosen, **more)

    def explain(self, asked: Request, **options: Any) -> tuple[Explanation, Seeing]:
        seeing = Seeing(asked.method, **options)
        _, run = self.composer.latents(self.composer.prepare(asked), observer=seeing)
        return seeing.explanations(run)[0], seeing


class Seeing(Explainer):
    """Keeps the latents and the run."""

    def after(
        self,
        run: Run,
        step: Step,
        latents: Tensor,
        passes: Sequence[Pass],
        predictions: Mapping[str, Tensor],
    ) -> None:
        self.run = run
        self.latents = {**getattr(self, "latents", {}), step.index: latents}
        super().after(run, step, latents, passes, predictions)


@pytest.fixture(scope="module", params=FAMILIES)
def setup(request, tmp_path_factory) -> Iterator[Setup]:
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with engine.composer(torch.float64, pipe=family.build()) as composer:
        yield Setup(family, composer, family.files(folder))


@torch.no_grad()
def guided(composer: Composer, asked: Request, latents: Tensor, index: int) -> Tensor:
    """The prediction of a request of its own, from given latents."""
    prepared = composer.prepare(asked)
    composer._install(prepared.adapters)
    run = composer._run(prepared.request, prepared.adapters, asked.seeds)
    run.state = asked.method.prepare(run)
    step = run.schedule.step(index)
    return asked.method.fuse(run, step, run.predict(latents, step, asked.method.passes(run, step)))


def size(x: Tensor) -> Tensor:
    return x.square().sum(dim=1).sqrt()


ORACLE = {"merge": 2, "regional": 1, "tara": 1, "tara*regional": 1, "composite": 1, "switch": 2}
"""Method to the steps of its run."""


@pytest.mark.parametrize("name", ORACLE)
def test_an_effect_is_the_difference_to_a_request_where_the_adapter_has_no_weight(
    setup, name
) -> None:
    asked = setup.asked(name, steps=ORACLE[name])
    got, seeing = setup.explain(asked)
    seen = seeing.latents.items()
    full = [guided(setup.composer, asked, z, index) for index, z in seen]
    for k, adapter in enumerate(got.adapters):
        silent = [0.0 if j == k else w for j, w in enumerate(WEIGHTS)]
        without = setup.asked(name, silent, steps=ORACLE[name])
        less = [guided(setup.composer, without, z, index) for index, z in seen]
        each = [size(a - b) / size(a).mean() for a, b in zip(full, less, strict=True)]
        expected = torch.stack(each).mean(dim=0)[0]
        assert expected.any() or (name == "switch" and k > 0)  # whose turn does not come
        torch.testing.assert_close(adapter.effect.double(), expected, rtol=1e-4, atol=1e-7)


def test_an_adapter_of_weight_zero_has_no_effect_and_costs_nothing(setup) -> None:
    got, _ = setup.explain(setup.asked("merge", [1.0, 0.0, 0.0], steps=2))
    one, *others = got.adapters
    assert one.acted == 2 and got.shares == (1.0, 0.0, 0.0)
    for other in others:
        assert other.acted == 0 and other.looked == () and not other.effect.any()
        assert other.attention is None and other.bleed is None
    assert got.calls.forwards == 2 and got.calls.rows == 4
    assert torch.equal(got.share_maps[0], torch.ones_like(one.effect))


def test_what_an_adapter_does_through_its_text_encoder_part_alone_is_its_effect(setup) -> None:
    def heard(text_weights: Sequence[float]) -> Request:
        asked = setup.asked("merge", [0.0, 0.7], steps=1)
        uses = zip(asked.adapters, text_weights, strict=True)
        return replace(asked, adapters=tuple(replace(u, text_weight=w) for u, w in uses))

    got, seeing = setup.explain(heard([1.0, 0.0]))
    full, less = (
        guided(setup.composer, heard(w), seeing.latents[0], 0) for w in ([1.0, 0.0], [0.0, 0.0])
    )
    expected = (size(full - less) / size(full).mean())[0]
    assert expected.max() > 1e-6
    torch.testing.assert_close(got.adapters[0].effect.double(), expected, rtol=1e-4, atol=1e-7)
    assert not got.adapters[0].text_kept


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_last_layer_does_stays_in_its_region(name, tmp_path) -> None:
    family = FAMILIES[name]
    pipe = family.build()
    part = "transformer" if hasattr(pipe, "transformer") else "unet"
    with engine.composer(torch.float64, pipe=pipe) as composer:
        found = {}
        for layers in ([LAST[name]], family.sites[part]):
            paths = [
                tiny.random_adapter_file(
                    tmp_path / f"a{k}.safetensors", layout="diffusers", seed=k, pipe=pipe,
                    modules={part: layers}, trigger=engine.TRIGGERS[k],
                )
                for k in (0, 1)
            ]  # fmt: skip
            for kind in (Regional(), Merge()):
                asked = family.request(paths, [1.0, 1.0], kind, regions=HALVES, steps=2)
                composer._loaded.clear()
                (made,) = composer.generate(asked, explain=True).images
                assert made.explanation is not None
                found[len(layers), kind.name] = made.explanation.adapters
    for adapter in found[1, "regional"]:
        assert adapter.bleed is not None and adapter.bleed.even == 0.5
        assert adapter.bleed.outside < 1e-6
        inside = adapter.region == 1
        assert (adapter.effect[inside] > 1e-3).all()
        assert adapter.effect[~inside].max() < 1e-6
        assert adapter.origin == "drawn" and torch.equal(adapter.mask, adapter.region)
    for adapter in found[len(family.sites[part]), "regional"]:  # the model's attention mixes places
        assert adapter.bleed is not None and adapter.bleed.outside > 1e-3
    for adapter in found[1, "merge"]:
        assert adapter.region is None and adapter.bleed is None and adapter.mask is None
        assert (adapter.effect > 1e-3).all()


def test_adapters_that_act_by_turns_are_met_in_their_turns(setup) -> None:
    asked = replace(setup.asked("merge"), method=Switch(every=2), steps=12)
    got, seeing = setup.explain(asked, looks=6)  # every second step of an adapter
    assert [a.acted for a in got.adapters] == [4, 4, 4]
    assert [a.looked for a in got.adapters] == [(0, 6), (2, 8), (4, 10)]
    assert got.calls.rows == 2 * 6
    for k, adapter in enumerate(got.adapters):
        assert torch.allclose(
            adapter.effect, torch.stack(seeing._seen[k].effects).mean(0)[0] * 4 / 12
        )


def test_only_passes_that_an_adapter_changes_run_again(setup) -> None:
    got, _ = setup.explain(replace(setup.asked("composite"), steps=5), looks=1)
    assert [a.looked for a in got.adapters] == [(0,)] * 3
    assert (got.calls.forwards, got.calls.rows) == (1, 6)  # a pair each, in one call


def test_several_images_and_a_tight_row_budget_tell_the_same(setup) -> None:
    asked = setup.asked("regional", steps=2, seeds=(3, 4))
    seeing = Seeing(asked.method)
    setup.composer.row_budget = 1
    try:
        _, run = setup.composer.latents(setup.composer.prepare(asked), observer=seeing)
    finally:
        setup.composer.row_budget = None
    for image, seed in enumerate(asked.seeds):
        alone, _ = setup.explain(replace(asked, seeds=(seed,)))
        for one, other in zip(
            seeing.explanations(run)[image].adapters, alone.adapters, strict=True
        ):
            torch.testing.assert_close(one.effect, other.effect)
            torch.testing.assert_close(one.attention, other.attention)
    assert seeing.explanations(run)[0].calls.forwards == 2 * alone.calls.rows


@dataclass(frozen=True, kw_only=True)
class OwnWords(Merge):
    """Turns the embeddings of the prompt around."""

    name: ClassVar[str] = "own_words"

    def passes(self, run: Run, step: Step) -> list[Pass]:
        return [
            replace(p, conditioning=replace(p.conditioning, embeds=p.conditioning.embeds.flip(2)))
            for p in super().passes(run, step)
        ]


def test_embeddings_that_a_method_changed_are_left_as_they_are_and_that_is_told(tmp_path) -> None:
    paths = [
        tiny.random_adapter_file(tmp_path / "a0.safetensors", seed=0, text=tiny.TEXT),
        tiny.random_adapter_file(tmp_path / "a1.safetensors", seed=1),
    ]
    with engine.composer() as composer:
        asked = engine.request(paths, [1.0, 1.0], OwnWords(), steps=1)
        (made,) = composer.generate(asked, explain=True).images
    assert made.explanation is not None
    assert [a.text_kept for a in made.explanation.adapters] == [True, False]
    assert all(a.effect.any() for a in made.explanation.adapters)
    assert made.explanation.adapters[0].attention is None  # whose words they are nobody knows


def test_nothing_to_explain_is_refused() -> None:
    with pytest.raises(RequestError, match=r"without adapters.*--lora NAME"):
        engine.composer().generate(engine.request([], [], Merge()), explain=True)


def explained(effect: list[float], region: list[float] | None = None) -> Explained:
    drawn = None if region is None else torch.tensor([region])
    return Explained("a", torch.tensor([effect]), 1, (0,), region=drawn)


def test_figures_on_hand_made_maps() -> None:
    one = explained([1.0, 3.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0])
    other = explained([0.0, 1.0, 0.0, 5.0])
    both = Explanation((one, other), 1, calls=None)  # type: ignore[arg-type]
    assert one.strength == 1.0
    assert one.bleed is not None
    assert one.bleed.outside == pytest.approx(1.5 / 4) and one.bleed.even == 0.625
    assert other.bleed is None
    assert both.shares == (0.4, 0.6)
    assert both.share_maps.tolist() == [[[1, 0.75, 0, 0]], [[0, 0.25, 0, 1]]]
    nothing = explained([0.0] * 4, [1.0, 0.0, 0.0, 0.0])
    assert nothing.bleed is None
    idle = Explanation((nothing,), 1, calls=None)  # type: ignore[arg-type]
    assert idle.shares == (0.0,) and not idle.share_maps.any()
