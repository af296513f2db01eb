"""LoRA-Composer: a text and an adapter for each region, and latents that follow attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.attention.losses import missing, straying, unfilled
from compose.attention.maps import smoothed
from compose.attention.masks import on_grid
from compose.composer import Composer
from compose.errors import RequestError
from compose.fusion.lora_composer import LoraComposer
from compose.fusion.merge import Merge
from compose.fusion.region_maps import Listening
from compose.fusion.region_texts import RegionTexts
from compose.regions import Box, Mask, Region
from compose.request import AdapterUse
from compose.run import Run
from compose.types import Size, Step
from tests import engine, tiny, tiny_sdxl
from tests.attachment import pipelines
from tests.families import FAMILIES, TinyFamily

SERVED = ("sd15", "sdxl")
LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
HALVES: Mapping[str, Region] = {"a0": LEFT, "a1": RIGHT}
PLAIN = {"rate": 0.0, "restart": False, "isolate": False}
"""Texts for regions, and nothing else."""


@dataclass(frozen=True)
class Made:
    """A family with three adapters, and a composer over it."""

    family: TinyFamily
    paths: list[Path]
    composer: Composer

    def asked(self, method: RegionTexts, weights: Any = (1.0, 0.5, 0.8), **more: Any) -> Any:
        regions = more.pop("regions", HALVES)
        paths = self.paths[: len(weights)]
        return self.family.request(paths, weights, method, regions=regions, **more)

    def latents(self, method: RegionTexts, weights: Any = (1.0, 0.5, 0.8), **more: Any) -> Tensor:
        return engine.latents(self.composer, self.asked(method, weights, **more))

    @torch.no_grad()
    def begun(
        self, method: RegionTexts, weights: Any = (1.0, 0.5, 0.8), **more: Any
    ) -> tuple[Run, Tensor]:
        """A run that was prepared, and its noise."""
        asked = self.asked(method, weights, **more)
        prepared = self.composer.prepare(asked)
        self.composer._install(prepared.adapters)
        run = self.composer._run(prepared.request, prepared.adapters, asked.seeds)
        run.state = method.prepare(run)
        sources = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
        return run, self.composer.family.latents(asked.size, run.schedule, sources)


def made(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Made:
    family = FAMILIES[name]
    paths = family.files(folder)
    return Made(family, paths, engine.composer(dtype, pipe=family.build()))


@pytest.fixture(scope="module", params=SERVED)
def shared(request: Any, tmp_path_factory: Any) -> Made:
    return made(request.param, tmp_path_factory.mktemp(request.param), torch.float64)


@pytest.fixture
def here(shared: Made) -> Iterator[Made]:
    yield shared
    shared.composer.close()


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


# what is said where


def test_a_region_listens_to_the_words_of_its_adapter_under_its_text_encoder(here: Made) -> None:
    """Placed adapters are off in the prompt as a whole; the one without a region is on in all."""
    run, _ = here.begun(LoraComposer())
    scene = run.state
    assert [c.name for c in scene.concepts] == ["a0", "a1"]
    assert scene.gate.weight.tolist() == [[0, 0, pytest.approx(0.8)]]
    words = {"a0": "mochi", "a1": "biscuit"}
    gates = {"a0": [1.0, 0.0, 0.8], "a1": [0.0, 0.5, 0.8]}
    with torch.no_grad():
        for concept in scene.concepts:
            expected = run.encode([words[concept.name]], gates[concept.name])
            assert torch.equal(concept.texts["cond"].embeds, expected.embeds)
            negative = run.encode(["dog"], gates[concept.name])
            assert torch.equal(concept.texts["uncond"].embeds, negative.embeds)
            assert concept.gate.weight[0].tolist() == pytest.approx(gates[concept.name])
            assert not torch.equal(expected.embeds, run.encode(["mochi"], [0, 0, 0.8]).embeds)
        for p, text in zip(both_passes(run), ("dog", engine.PROMPT), strict=True):
            assert torch.equal(p.conditioning.embeds, run.encode([text], [0, 0, 0.8]).embeds)
            assert [s.name for s in p.streams] == ["a0", "a1"]
            for stream, box in zip(p.streams, (LEFT, RIGHT), strict=True):
                assert torch.equal(stream.place[0].double(), box.on(run.regions.shape[-2:]))


def both_passes(run: Run, **fields: Any) -> list[Any]:
    return LoraComposer(**fields).passes(run, run.schedule.step(0))


def test_the_class_word_is_said_behind_the_trigger(shared: Made) -> None:
    run, _ = shared.begun(LoraComposer())
    first, *rest = run.adapters.adapters
    first = replace(first, class_word="cat")
    run.adapters = replace(run.adapters, adapters=(first, *rest))
    with torch.no_grad():
        concept = LoraComposer().prepare(run).concepts[0]
        assert torch.equal(
            concept.texts["cond"].embeds, run.encode(["mochi cat"], [1, 0, 0.8]).embeds
        )
        assert concept.words == (((1,), (2,)),)
        # in the prompt as a whole, without the words of others: "mochi cat and dog, sunvo style"
        concept = LoraComposer(local="prompt").prepare(run).concepts[0]
        local = "mochi cat and dog, sunvo style"
        assert torch.equal(concept.texts["cond"].embeds, run.encode([local], [1, 0, 0.8]).embeds)
        assert concept.words == (((1,), (2,)),)
        # a class word that does not stand behind the trigger there is none of its words
        first = replace(first, class_word="dog")
        run.adapters = replace(run.adapters, adapters=(first, *rest))
        assert LoraComposer(local="prompt").prepare(run).concepts[0].words == (((1,),),)


def test_words_of_several_tokens_are_one_map(here: Made) -> None:
    """ "quux" falls apart into letters: its map is the sum of theirs."""
    run, noise = here.begun(LoraComposer())
    first, *rest = run.adapters.adapters
    run.adapters = replace(run.adapters, adapters=(replace(first, triggers=("red quux",)), *rest))
    method = LoraComposer()
    with torch.no_grad():
        run.state = method.prepare(run)
        concept = run.state.concepts[0]
        assert concept.words == (((1,), (2, 3, 4, 5)),)
        heard = method._listening(run, run.schedule.step(0), noise)
    assert heard.words[0].shape[:2] == (1, 2)
    assert heard.words[1].shape[:2] == (1, 1)


def test_words_that_are_bound_are_what_a_region_listens_to(here: Made) -> None:
    asked = here.asked(LoraComposer())
    first, *rest = asked.adapters
    asked = replace(asked, adapters=(replace(first, trigger="mochi cat"), *rest))
    prepared = here.composer.prepare(asked)
    run = here.composer._run(prepared.request, prepared.adapters, (1,))
    with torch.no_grad():
        scene = LoraComposer().prepare(run)
    assert scene.concepts[0].words == (((1,), (2,)),)


def test_every_image_has_the_positions_of_its_own_prompt(here: Made) -> None:
    """Losses of images with words in different places are as if each were alone."""
    prompts = (engine.PROMPT, "a sunvo style, biscuit dog and mochi cat")
    method = LoraComposer(local="prompt")
    run, noise = here.begun(method, seeds=(1, 2))
    run = replace(run, prompts=prompts, _texts={})
    step = run.schedule.step(0)
    with torch.no_grad():
        run.state = method.prepare(run)
        assert run.state.concepts[0].words == (((1,),), ((7,),))
        both = method.losses(run, step, noise)
        for i, prompt in enumerate(prompts):
            one = replace(run, prompts=(prompt,), negatives=run.negatives[:1], _texts={})
            one.state = method.prepare(one)
            close(method.losses(one, step, noise[i : i + 1])[0], both[i])


def test_an_adapter_without_weight_is_not_there(here: Made) -> None:
    """As if it were not in the request: the picture is that of the other one alone."""
    method = LoraComposer()
    got = here.latents(method, (0.0, 0.5))
    alone = replace(here.asked(method, (0.0, 0.5)), adapters=())
    only = here.asked(method, (0.0, 0.5)).adapters[1]
    close(got, engine.latents(here.composer, replace(alone, adapters=(only,))))


CROSSING = {
    "sd15": [
        f"{block}.transformer_blocks.0.attn2.{part}"
        for block in (
            "down_blocks.0.attentions.0",
            "down_blocks.1.attentions.0",
            "mid_block.attentions.0",
            "up_blocks.2.attentions.1",
        )
        for part in ("to_k", "to_v", "to_out.0")
    ],
    "sdxl": [
        f"{block}.attn2.{part}"
        for block in (
            "down_blocks.1.attentions.0.transformer_blocks.0",
            "mid_block.attentions.0.transformer_blocks.1",
            "up_blocks.1.attentions.1.transformer_blocks.0",
        )
        for part in ("to_k", "to_v", "to_out.0")
    ],
}
TEXT: Mapping[str, Mapping[str, Any]] = {"sd15": {"text_encoder": tiny.TEXT}, "sdxl": {}}
"""The pooled text of SDXL stays the prompt's, so there the adapter leaves text encoders alone."""


@pytest.mark.parametrize("name", SERVED)
def test_one_adapter_of_cross_attention_everywhere_is_a_plain_adapter(
    name: str, tmp_path: Path
) -> None:
    family = replace(FAMILIES[name], sites={"unet": CROSSING[name], **TEXT[name]})
    paths = family.files(tmp_path, ranks=(4,))
    with engine.composer(torch.float64, pipe=family.build()) as composer:
        plain = engine.latents(composer, family.request(paths, [0.8], Merge()))
        for fields in (PLAIN, {**PLAIN, "isolate": True}, {**PLAIN, "scope": "regional"}):
            method = LoraComposer(local="prompt", **fields)
            asked = family.request(paths, [0.8], method, regions={"a0": engine.EVERYWHERE})
            close(engine.latents(composer, asked), plain)
        base = engine.latents(composer, family.request([], [], Merge()))
        assert (plain - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", SERVED)
def test_other_layers_follow_an_adapter_under_scope_regional_alone(
    name: str, tmp_path: Path
) -> None:
    """Convolutions, self-attention, queries: under reference such an adapter changes no bit."""
    chosen = {
        "sd15": [s for s in tiny.ATTENTION + tiny.CONVOLUTIONS if not s.endswith(("to_k", "to_v"))],
        "sdxl": [s for s in tiny_sdxl.ATTENTION if not s.endswith(("to_k", "to_v"))],
    }[name]
    family = replace(FAMILIES[name], sites={"unet": chosen})
    paths = family.files(tmp_path, ranks=(4, 2))
    with engine.composer(pipe=family.build()) as composer:
        made = {}
        for scope in ("reference", "regional"):
            for weight in (0.5, 2.0):
                method = LoraComposer(scope=scope, **PLAIN)
                asked = family.request(paths, [weight, 1.0], method, regions=HALVES)
                made[scope, weight] = engine.latents(composer, asked)
        assert torch.equal(made["reference", 0.5], made["reference", 2.0])
        assert (made["regional", 0.5] - made["regional", 2.0]).abs().max() > 1e-3


def test_the_negative_prompt_can_be_left_to_the_base(here: Made) -> None:
    run, _ = here.begun(LoraComposer(uncond=False))
    uncond, cond = both_passes(run, uncond=False)
    assert not uncond.streams and len(cond.streams) == 2
    assert uncond.bias == cond.bias and len(cond.bias) == 1
    unguided, _ = here.begun(LoraComposer(), guidance=1.0)
    (cond,) = both_passes(unguided)
    assert len(cond.streams) == 2


def test_regions_do_not_see_each_other(here: Made) -> None:
    """Probabilities from one half to the other are zero, rows add up to one; not so without."""
    for isolate in (True, False):
        method = LoraComposer(isolate=isolate)
        run, noise = here.begun(method)
        with torch.no_grad():
            inward = method._listening(run, run.schedule.step(0), noise).inward[0]
        grid = run.family.layout(noise).grid(2)
        left, right = on_grid(run.regions[None, :2], grid)[0].flatten(1)
        across = max(inward[left][:, right].max(), inward[right][:, left].max())
        assert across < 1e-12 if isolate else across > 1e-3
        close(inward.sum(1), torch.ones_like(inward[0]))


# losses


def by_hand(method: LoraComposer, heard: Listening, boxes: Tensor) -> Tensor:
    """The losses, word by word."""
    total = torch.zeros(heard.inward.shape[0], dtype=torch.float64)
    for k, maps in enumerate(heard.words):
        box = boxes[k : k + 1]
        for w in range(maps.shape[1]):
            one = smoothed(maps[:, w : w + 1], method.blur)
            total += method.enhance * missing(one, box, top=method.top, spread=method.spread)[:, 0]
            total += method.fill * unfilled(one, box)[:, 0]
        total += method.restrict * straying(heard.inward, box, top=method.top)[:, 0]
    return total


def test_losses_add_up_over_words_and_regions(here: Made) -> None:
    """A mask counts as the box around it; every image has its own."""
    ragged = Mask(3, 2, bytes([255, 0, 0, 255, 255, 0]))
    method = LoraComposer(enhance=3.0, fill=0.7, restrict=5.0, top=0.4, spread=0.8, blur=0.6)
    run, noise = here.begun(method, regions={"a0": ragged, "a1": RIGHT}, seeds=(1, 2))
    step = run.schedule.step(0)
    with torch.no_grad():
        losses = method.losses(run, step, noise)
        heard = method._listening(run, step, noise)
        boxes = on_grid(run.regions[None, :2], heard.words[0].shape[-2:])[0]
        close(losses, by_hand(method, heard, boxes))
        for i in range(2):
            one, _ = here.begun(method, regions={"a0": ragged, "a1": RIGHT}, seeds=(1 + i,))
            close(method.losses(one, step, noise[i : i + 1])[0], losses[i])


def test_the_gradient_is_that_of_finite_differences(here: Made) -> None:
    method = LoraComposer()
    run, noise = here.begun(method, regions={"a0": Box(0, 0, 0.6, 1), "a1": Box(0.4, 0, 1, 0.7)})
    step = run.schedule.step(1)
    with torch.enable_grad():
        z = noise.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(method.losses(run, step, z).sum(), z)
    along = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    with torch.no_grad():
        e = 1e-6
        up, down = (method.losses(run, step, noise + s * e * along)[0] for s in (1, -1))
    slope = (up - down) / (2 * e)
    assert slope.abs() > 1e-6
    close((gradient * along).sum(), slope, 1e-5)


def test_a_small_move_lowers_the_losses(here: Made) -> None:
    method = LoraComposer(rate=1e-3, restart=False)
    run, noise = here.begun(method, seeds=(1, 2))
    step = run.schedule.step(0)
    with torch.no_grad():
        before = method.losses(run, step, noise)
        moved = method.adjust(run, step, noise)
        assert not moved.requires_grad and not noise.requires_grad
        assert (method.losses(run, step, moved) < before).all()
    assert run.calls.backwards == 1


def test_without_rate_and_restart_latents_stay_the_very_same(here: Made) -> None:
    method = LoraComposer(rate=0.0, restart=False)
    run, noise = here.begun(method)
    assert method.adjust(run, run.schedule.step(0), noise) is noise
    assert run.calls.forwards == run.calls.backwards == 0


@dataclass(frozen=True, kw_only=True)
class Straight(LoraComposer):
    """Losses whose gradient is one everywhere, and that change as told."""

    course: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def params(cls) -> Any:
        return LoraComposer.params()

    def losses(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        told = torch.tensor(self.course[step.index], dtype=latents.dtype)
        each = latents.sum(dim=(1, 2, 3))
        return each - each.detach() + told


def walked(here: Made, method: Straight, total: int, **more: Any) -> tuple[Run, list[Tensor]]:
    """How far the latents were moved before each step."""
    run, noise = here.begun(method, steps=total, **more)
    sources = [torch.Generator() for _ in noise]
    moves = []
    for index in range(total):
        step = run.schedule.step(index)
        moves.append(noise - method.adjust(run, step, noise))
        run.schedule.advance(noise, step, noise, sources)
    return run, moves


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_moves_grow_shorter_and_are_the_same_for_every_solver(here: Made, scheduler: str) -> None:
    """20 sqrt(linspace(1, 1/2, T)) in the scale that the denoiser sees: where latents are divided
    by sqrt(1 + sigma^2), the gradient is so much shorter and the move so much longer.
    """
    method = Straight(restart=False, course=((1.0,),) * 4)
    run, moves = walked(here, method, 4, scheduler=scheduler)
    for index, move in enumerate(moves):
        length = 20 * (1 - 0.5 * index / 3) ** 0.5
        sigma = run.schedule.step(index).sigma
        scale = (1 + sigma**2) ** -0.5 if scheduler == "euler" else 1.0
        torch.testing.assert_close(
            move, torch.full_like(move, length / scale**2), rtol=1e-5, atol=0
        )
    assert run.calls.backwards == 4


@pytest.mark.parametrize(
    ("fields", "course", "backwards"),
    [
        ({"until": 2}, [9, 8, 7, 6, 5, 4], 3),  # steps 0, 1 and 2
        ({"until": 0}, [9, 8, 7, 6, 5, 4], 1),
        ({"patience": 3}, [9, 9.5, 9.6, 9.7, 5, 4], 4),  # rises before step 3 are let pass
        ({"patience": 3}, [9, 8, 7, 7, 8, 4], 5),  # no rise is no end
        ({}, [9, 8, 7, 6, 5, 4], 6),
    ],
)
def test_moves_end_for_good(
    here: Made, fields: dict[str, Any], course: list[float], backwards: int
) -> None:
    method = Straight(restart=False, course=tuple((x,) for x in course), **fields)
    run, moves = walked(here, method, 6)
    assert [bool(move.any()) for move in moves] == [i < backwards for i in range(6)]
    assert run.calls.backwards == backwards and run.calls.forwards == 0


def test_every_image_has_its_own_end(here: Made) -> None:
    course = ((9.0, 9.0), (8.0, 10.0), (7.0, 1.0), (8.0, 0.0))
    run, moves = walked(here, Straight(restart=False, patience=0, course=course), 4, seeds=(1, 2))
    assert [[bool(m.any()) for m in move] for move in moves] == [
        [True, True],
        [True, True],
        [True, False],
        [True, False],
    ]
    assert run.calls.backwards == 4 and not run.state.going.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_its_gradient_in_single(tmp_path: Path, dtype: torch.dtype) -> None:
    """The move is a single-precision one that is rounded once, at its end."""
    here = made("sd15", tmp_path, dtype)
    method = LoraComposer(restart=False)
    run, noise = here.begun(method)
    step = run.schedule.step(0)
    with torch.no_grad():
        moved = method.adjust(run, step, noise)
        assert method.losses(run, step, noise).dtype == torch.float32
    with torch.enable_grad():
        z = noise.float().requires_grad_()
        (gradient,) = torch.autograd.grad(method.losses(run, step, z.to(dtype)).sum(), z)
    assert gradient.dtype == run.state.loss.dtype == torch.float32
    assert torch.equal(moved, (z - 20 * gradient).to(dtype)) and not torch.equal(moved, noise)
    here.composer.close()


# the whole run


@pytest.mark.parametrize(
    ("fields", "forwards", "backwards"),
    [
        ({}, 1 + 3 + 3, 3),
        ({"restart": False}, 3 + 3, 3),
        ({"rate": 0.0}, 1 + 3, 0),
        ({"until": 0}, 1 + 1 + 3, 1),
        ({"rate": 0.0, "restart": False}, 3, 0),
    ],
)
def test_what_a_picture_costs(
    here: Made, fields: dict[str, Any], forwards: int, backwards: int
) -> None:
    """Calls for attention alone have the prompt's row and no row of the negative prompt."""
    method = LoraComposer(**fields)
    asked = here.asked(method, steps=3)
    latents, run = here.composer.latents(here.composer.prepare(asked))
    assert not latents.requires_grad and not run.state.loss.requires_grad
    assert run.calls.forwards == forwards and run.calls.backwards == backwards
    assert run.calls.rows == 2 * 3 + (forwards - 3)
    names = [record.rows for record in run.trace]
    assert names.count(("uncond", "cond")) == 3 and names.count(("cond",)) == forwards - 3
    for record in run.trace:
        heard = [name for name, _ in record.streams]
        sides = record.rows
        assert heard == [f"{side}/{name}" for side in sides for name in ("a0", "a1")]


def test_noise_is_put_in_its_place_once_and_keeps_mean_and_deviation(here: Made) -> None:
    method = LoraComposer(rate=0.0)
    run, noise = here.begun(method, seeds=(1, 2))
    with torch.no_grad():
        first = method.adjust(run, run.schedule.step(0), noise)
        second = method.adjust(run, run.schedule.step(1), first)
    assert second is first and run.calls.forwards == 1
    for before, after in zip(noise, first, strict=True):
        close(after.mean(), before.mean(), 1e-5)
        close(after.std(), before.std(), 1e-5)
    assert (first - noise).abs().max() > 1e-3


def test_parts_that_are_on_make_a_difference(here: Made) -> None:
    """Regions leave something out: isolated ones that share the picture cannot stray."""
    how = {"steps": 1, "regions": {"a0": LEFT, "a1": Box(0.5, 0, 1, 0.6)}}
    full = here.latents(LoraComposer(), **how)
    for fields in (
        {"restart": False},
        {"rate": 0.0},
        {"isolate": False},
        {"enhance": 0.0},
        {"fill": 0.0},
        {"restrict": 0.0},
        {"scope": "regional"},
        {"local": "prompt"},
    ):
        assert (here.latents(LoraComposer(**fields), **how) - full).abs().max() > 1e-5, fields


def test_images_side_by_side_are_as_if_each_were_alone(here: Made) -> None:
    method = LoraComposer(patience=1)
    both = here.latents(method, seeds=(1, 2), steps=3)
    for i in range(2):
        close(both[i : i + 1], here.latents(method, seeds=(1 + i,), steps=3), 1e-6)


def test_two_requests_with_other_regions_are_as_if_each_were_the_first(here: Made) -> None:
    places = (HALVES, {"a0": Box(0.1, 0.2, 0.5, 0.6)})
    expected = []
    for regions in places:
        here.composer.close()
        expected.append(here.latents(LoraComposer(), regions=regions, steps=2))
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    for regions, one in zip((*places, places[0]), (*expected, expected[0]), strict=True):
        assert torch.equal(here.latents(LoraComposer(), regions=regions, steps=2), one)


def test_a_region_smaller_than_a_cell_is_heard_and_looked_at(here: Made) -> None:
    """It keeps a cell at every level, on a grid that is not square."""
    spot = {"a0": Box(0.41, 0.43, 0.42, 0.44), "a1": RIGHT}
    method = LoraComposer()
    run, noise = here.begun(method, regions=spot, size=Size(64, 48))
    step = run.schedule.step(0)
    with torch.no_grad():
        heard = method._listening(run, step, noise)
        box = on_grid(run.regions[None, :1], heard.words[0].shape[-2:])[0]
        assert box.sum() == 1
        close(
            method.losses(run, step, noise),
            by_hand(method, heard, on_grid(run.regions[None, :2], box.shape[-2:])[0]),
        )
    with_it = here.latents(LoraComposer(**PLAIN), regions=spot)
    without = here.latents(LoraComposer(**PLAIN), (0.0, 0.5, 0.8), regions=spot)
    assert (with_it - without).abs().max() > 1e-5


# what is refused


def test_a_level_that_the_model_does_not_have_is_refused(here: Made) -> None:
    with pytest.raises(RequestError, match=r"level=4 .*; expected one of (0, )?1, 2"):
        here.composer.prepare(here.asked(LoraComposer(level=4)))


def test_an_adapter_without_words_is_refused(tmp_path: Path) -> None:
    paths = engine.files(tmp_path, ranks=(2, 3), trigger=None)
    composer = engine.composer()
    with pytest.raises(RequestError, match=r"a0 names no words that call it.*--bind a0=WORDS"):
        composer.prepare(engine.request(paths, [1, 1], LoraComposer(), regions=HALVES))
    anywhere = engine.request(paths, [1, 1], LoraComposer(), regions={"a1": LEFT})
    second = AdapterUse(str(paths[1]), region=LEFT, trigger="biscuit dog")
    composer.prepare(replace(anywhere, adapters=(anywhere.adapters[0], second)))


def test_a_prompt_without_the_words_is_refused_where_regions_listen_to_it(here: Made) -> None:
    for local, refused in (("prompt", True), ("phrase", False)):
        asked = replace(here.asked(LoraComposer(local=local)), prompt="a biscuit dog, sunvo style")
        if not refused:
            here.composer.prepare(asked)
            continue
        with pytest.raises(RequestError, match="a0 is not called in the prompt"):
            here.composer.prepare(asked)


def test_nobody_is_warned_of_words_that_only_regions_listen_to(here: Made) -> None:
    """But of those of an adapter that has no region."""
    asked = replace(here.asked(LoraComposer()), prompt="a dog")
    (warning,) = here.composer.prepare(asked).warnings
    assert "adapter a2: its trigger 'sunvo' is not in the prompt" in warning


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_joint_transformers_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    here = made(name, tmp_path)
    with pytest.raises(RequestError, match=f"{name} models have none: there image and text are on"):
        here.composer.prepare(here.asked(LoraComposer()))


def test_it_cannot_be_attached_to_a_pipeline(tmp_path: Path) -> None:
    paths = engine.files(tmp_path)[:1]
    with pytest.raises(RequestError, match=r"texts of its own.*changes the latents"):
        pipelines.attach(
            pipelines.pipeline("text"), [AdapterUse(str(paths[0]), region=LEFT)], LoraComposer()
        )
