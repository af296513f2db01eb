"""Regional: adapters where they belong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import RequestError
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.regional import Regional
from compose.gate import Gate
from compose.regions import Box, Region
from compose.run import Run
from compose.slot import resample
from compose.types import Site, Size
from tests import engine
from tests.fusion.ready import WEIGHTS, Ready, close

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
CORNER = Box(0.5, 0, 1, 0.25)
TALL, WIDE = Size(40, 72), Size(72, 40)  # odd grids at deeper levels of a UNet
STRENGTHS = torch.tensor(WEIGHTS)


def latents(ready: Ready, method: Any, regions: Mapping[str, Region] = {}, **more: Any) -> Tensor:
    paths, weights = more.pop("paths", ready.paths), more.pop("weights", WEIGHTS)
    asked = ready.family.request(paths, weights, method, regions=regions, **more)
    return engine.latents(ready.composer, asked)


@pytest.mark.parametrize("text", ["least", "mean", "full"])
@pytest.mark.parametrize("outside", ["base", "average"])
def test_a_full_region_is_no_region(ready: Ready, text: str, outside: str) -> None:
    """Bit for bit, also with soft edges, in layers of every kind."""
    method = Regional(text=text, outside=outside, feather=0.1, isolate=1.0)
    more: dict[str, Any] = {"paths": ready.paths[:1], "weights": [0.8], "size": WIDE}
    got = latents(ready, method, {"a0": engine.EVERYWHERE}, **more)
    assert torch.equal(got, latents(ready, Merge(), **more))


def test_full_regions_are_none_in_text_by_place_too_which_words_that_see_words_cannot_have(
    ready: Ready,
) -> None:
    method = Regional(text="places", overlap="sum")
    everywhere = {"a0": engine.EVERYWHERE, "a1": engine.EVERYWHERE}
    if any(site.keys == "joint" for site in ready.composer.family.attention_layers()):
        with pytest.raises(
            RequestError, match=r"text=places was asked for .* where words see words"
        ):
            latents(ready, method, everywhere)
        return
    assert torch.equal(latents(ready, method, everywhere), latents(ready, Merge()))
    placed = {"a0": LEFT, "a1": RIGHT}
    pictures = [latents(ready, Regional(text=text), placed) for text in ("places", "least", "full")]
    for one, other in itertools.combinations(pictures, 2):
        assert (one - other).abs().max() > 1e-3


def test_full_regions_that_act_each_as_if_alone_are_a_merge(ready: Ready) -> None:
    everywhere = dict.fromkeys(("a0", "a1", "a2"), engine.EVERYWHERE)
    got = latents(ready, Regional(overlap="sum", isolate=1.0), everywhere)
    assert torch.equal(got, latents(ready, Merge()))
    asked = ready.family.request(ready.paths, WEIGHTS, Regional(), regions=everywhere)
    mute = tuple(replace(use, text_weight=0.0) for use in asked.adapters)
    shared = engine.latents(ready.composer, replace(asked, adapters=mute))
    bare = tuple(replace(use, region=None) for use in mute)
    merged = replace(asked, adapters=bare, method=Merge(budget="mean"))
    engine.assert_close(shared, engine.latents(ready.composer, merged))


def test_one_pass_at_the_cost_of_a_merge(ready: Ready) -> None:
    costs = []
    for method in (Merge(), Regional(), Composite()):
        prepared = ready.composer.prepare(ready.family.request(ready.paths, WEIGHTS, method))
        costs.append(ready.composer.latents(prepared)[1].calls)
    assert costs[0] == costs[1] != costs[2]


def regions_of(run: Run, site: Site, change: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [..., n, d] of text and of image at a site that has both."""
    grid = run.family.layout(torch.zeros(1, 4, *run.regions.shape[-2:])).grid(site.level)
    count = change.shape[-2] - grid[0] * grid[1]
    return change[..., :count, :], change[..., count:, :]


@pytest.mark.parametrize("size", [TALL, WIDE], ids=str)
def test_every_layer_changes_the_cells_of_the_regions(ready: Ready, size: Size) -> None:
    """A corner that a mix-up of rows and columns, or of the two ends of either, would move."""
    regions = {"a0": CORNER, "a1": LEFT}
    method = Regional(text="mean")
    run = ready.run(method, regions=regions, size=size)
    boxes = (CORNER, LEFT, engine.EVERYWHERE)
    met = set()
    for site, change, each in ready.changes(run, method):
        met.add(site.stream)
        each = each * STRENGTHS[:, None, None]
        grid = run.family.layout(torch.zeros(1, 4, *run.regions.shape[-2:])).grid(site.level)
        exact = resample(torch.stack([box.on(run.regions.shape[-2:]) for box in boxes]), grid)
        cover = exact.float().flatten(1)[..., None]  # [K, n, 1]
        mean = torch.tensor([0.125, 0.5, 1.0])[:, None, None]
        if site.stream == "joint":
            text, change = regions_of(run, site, change)
            text_each, each = regions_of(run, site, each)
            close(text, (text_each * mean).sum(0))
        if site.stream in ("text", "vector"):
            close(change, (each * mean).sum(0))
            continue
        close(change, (each * cover).sum(0))
        outside = (cover[:2] == 0).all(0)[:, 0]
        assert outside.any() and (each[:2, outside].abs().max() > 1e-3)
    assert {"image", "text"} <= met and ("vector" in met) == (run.family.name != "sd15")


def test_a_region_that_is_smaller_than_a_cell_acts_in_every_layer(ready: Ready) -> None:
    spot = Box(0.41, 0.43, 0.42, 0.44)
    method = Regional()
    run = ready.run(method, [1.0], regions={"a0": spot}, size=Size(64, 48))
    for site, change, each in ready.changes(run, method):
        if site.stream == "image":
            raised = (change - each[0]).abs().amax(dim=1) < 1e-4
            assert raised.any() and change.abs().max() > 1e-4, site.path


def gate(ready: Ready, method: Regional, regions: Mapping[str, Region]) -> Gate:
    run = ready.run(method, regions=regions, size=Size(64, 32))
    return method.gate(run, run.schedule.step(0))


def halves(gate: Gate) -> list[list[float]]:
    """Of every adapter, its gate in the middle of the left half and of the right one."""
    image = gate.image
    assert image is not None
    h, w = image.shape[-2:]
    return [[round(float(m[h // 2, x]), 3) for x in (w // 4, 3 * w // 4)] for m in image[0]]


@pytest.mark.parametrize(
    ("fields", "regions", "expected", "text"),
    [
        ({}, {"a0": LEFT, "a1": RIGHT}, [[1, 0], [0, 1], [1, 1]], [0, 0, 1]),
        ({}, {"a1": LEFT}, [[1, 1], [1, 0], [1, 1]], [1, 0, 1]),
        ({"text": "places"}, {"a1": LEFT}, [[1, 1], [1, 0], [1, 1]], None),
        ({"outside": "average"}, {"a1": LEFT}, [[1, 1], [1, 1], [1, 1]], [1, 1, 1]),
        (
            {"outside": "average"},
            {"a0": LEFT, "a1": LEFT},
            [[0.5, 0.5], [0.5, 0.5], [1, 1]],
            [0.5, 0.5, 1],
        ),
        (
            {"overlap": "first", "text": "mean"},
            {"a0": LEFT, "a1": engine.EVERYWHERE},
            [[1, 0], [0, 1], [1, 1]],
            [0.5, 0.5, 1],
        ),
        (
            {"overlap": "sum", "text": "full"},
            {"a0": LEFT, "a1": engine.EVERYWHERE},
            [[1, 0], [1, 1], [1, 1]],
            None,
        ),
    ],
)
def test_what_becomes_of_places_with_many_regions_or_none(
    sd15: Ready,
    fields: dict[str, str],
    regions: Mapping[str, Region],
    expected: list[list[float]],
    text: list[float] | None,
) -> None:
    """The third adapter has no region and takes no part in it."""
    made = gate(sd15, Regional(**fields), regions)
    assert halves(made) == expected
    assert made.weight.tolist() == torch.tensor([WEIGHTS]).tolist()
    if fields.get("text") == "places":
        assert made.queries is not None and torch.equal(made.queries, made.image)
    else:
        assert made.queries is None
    if text is None:
        assert made.text is None
    else:
        assert made.text is not None and made.text.shape == (1, 77, 3)
        assert made.text[0].unique(dim=0).tolist() == [text]


@pytest.mark.parametrize("method", [Regional(), Regional(isolate=0.5, text="places")], ids=str)
def test_two_requests_with_other_regions_are_as_if_each_were_the_first(
    sd15: Ready, method: Regional
) -> None:
    first, second = {"a0": LEFT, "a1": RIGHT}, {"a0": CORNER, "a1": LEFT}
    expected = []
    for regions in (first, second):
        sd15.composer.close()
        expected.append(latents(sd15, method, regions))
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    for regions, one in zip((first, second, first), (*expected, expected[0]), strict=True):
        assert torch.equal(latents(sd15, method, regions), one)


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize(
    ("modules", "stays"), [(("to_q", "to_out.0"), True), (("to_k", "to_v"), False)]
)
def test_what_one_attention_layer_carries_across_a_border(
    sd15: Ready, tmp_path: Any, modules: tuple[str, ...], stays: bool
) -> None:
    """Changed queries and outputs stay in the region; changed keys and values are seen from
    outside, which is why a gate alone does not isolate regions.
    """
    sites = {"unet": [f"{ATTENTION}.{name}" for name in modules]}
    (path,) = replace(sd15.family, sites=sites).files(tmp_path, ranks=(4,))
    asked = sd15.family.request([path], [1.0], Regional(), regions={"a0": LEFT})
    prepared = sd15.composer.prepare(asked)
    sd15.composer._install(prepared.adapters)
    run = sd15.composer._run(prepared.request, prepared.adapters, (1,))
    run.state = Regional().prepare(run)
    layer: Any = sd15.composer.family.denoiser.get_submodule(ATTENTION)
    height, width = run.regions.shape[-2:]
    x = torch.randn(1, height * width, layer.to_q.in_features)
    layout = run.family.layout(torch.zeros(1, 4, height, width))
    with torch.no_grad():
        base = layer(x)
        with sd15.composer.slots["unet"].hold(Regional().gate(run, run.schedule.step(0)), layout):
            change = (layer(x) - base).reshape(height, width, -1)
    assert change[:, : width // 2].abs().max() > 1e-3
    outside = change[:, width // 2 :]
    assert (torch.count_nonzero(outside) == 0) if stays else (outside.abs().max() > 1e-3)


def test_regions_are_needed_and_of_use_to_nobody_else(sd15: Ready) -> None:
    ask = sd15.family.request(sd15.paths, WEIGHTS, Regional(), regions={})
    with pytest.raises(RequestError, match=r"method regional needs to know where .* --region"):
        sd15.composer.prepare(ask)
    uses = (replace(ask.adapters[0], region=LEFT), *ask.adapters[1:])
    with pytest.raises(RequestError, match="adapter a0 has a region, but method merge works on"):
        sd15.composer.prepare(replace(ask, adapters=uses, method=Merge()))
