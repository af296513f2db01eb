"""Isolation: image tokens of one region do not attend to those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.attention.bias import Isolation
from compose.attention.capture import Columns
from compose.attention.layers import Images, image_layers
from compose.attention.watch import Watch, Watched
from compose.fusion import method
from compose.fusion.regional import Regional
from compose.gate import Gate
from compose.regions import Box, drawn
from compose.run import Run
from compose.slot import GateSlot, TokenLayout
from compose.types import AttentionSite
from tests import engine
from tests.fusion.ready import WEIGHTS, Ready
from tests.fusion.test_regional import ATTENTION, LEFT, RIGHT, TALL, WIDE, latents

HALVES = {"a0": LEFT, "a1": RIGHT}
CPU = torch.device("cpu")
H, W = 6, 8
SITE = AttentionSite(ATTENTION, "image", "down.0", 0)


def biases(run: Run, chosen: Any, index: int) -> dict[str, tuple[Any, ...]]:
    """Of the passes of a step."""
    return {p.name: tuple(p.bias) for p in chosen.passes(run, run.schedule.step(index))}


def test_it_lasts_for_its_share_of_the_run_and_acts_where_the_gate_acts(sd15: Ready) -> None:
    for share, steps in ((0.0, 0), (0.01, 1), (0.5, 2), (0.51, 3), (1.0, 4)):
        chosen = Regional(isolate=share)
        run = sd15.run(chosen, regions=HALVES)
        found = [biases(run, chosen, index) for index in range(4)]
        assert all(one["cond"] == one["uncond"] for one in found)
        assert [len(one["cond"]) for one in found] == [1] * steps + [0] * (4 - steps)
    chosen = Regional(isolate=1.0, uncond=False)
    found = biases(sd15.run(chosen, regions=HALVES), chosen, 0)
    assert len(found["cond"]) == 1 and found["uncond"] == ()


def test_only_regions_that_leave_something_out_take_part(sd15: Ready) -> None:
    chosen = Regional(isolate=1.0, feather=0.2)
    run = sd15.run(chosen, regions=HALVES)  # the third adapter has no region
    ((bias,),) = {biases(run, chosen, 0)["cond"]}
    assert isinstance(bias, Isolation)
    assert torch.equal(bias.masks, run.regions[None, :2])  # as drawn, without soft edges
    for regions in ({"a0": LEFT}, {"a0": LEFT, "a1": engine.EVERYWHERE}):
        assert biases(sd15.run(chosen, regions=regions), chosen, 0)["cond"] == ()
    full = latents(sd15, Regional(isolate=1.0, overlap="sum"), {**HALVES, "a2": engine.EVERYWHERE})
    none = latents(sd15, Regional(isolate=1.0, overlap="sum"), HALVES)
    assert torch.equal(full, none)


def test_products_add_up_what_their_parts_say(sd15: Ready) -> None:
    for name in ("tara*regional", "switch*regional", "w_switch*tara*regional"):
        chosen = method(name).parse({"regional.isolate": 0.5})
        run = sd15.run(chosen, regions=HALVES)
        first, last = (biases(run, chosen, index) for index in (0, 3))
        assert [type(b) for b in first["cond"]] == [Isolation] == [type(b) for b in first["uncond"]]
        assert last == {"uncond": (), "cond": ()}


@pytest.mark.parametrize("size", [TALL, WIDE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_probability_crosses_from_region_to_region(ready: Ready, dtype, size) -> None:
    """Exactly none, on every grid of a whole model, also where regions overlap; what a token gives
    to all keys of its layer adds up to one.
    """
    regions = {"a0": Box(0, 0, 0.6, 0.8), "a1": Box(0.5, 0.3, 1, 1)}
    chosen = Regional(isolate=1.0)
    ready.composer.family.pipe.to(dtype)
    try:
        run = ready.run(chosen, regions=regions, size=size)
        capture = {"all": Columns(image_layers(), keys="image")}
        step = run.schedule.step(1)
        noise = ready.composer.family.latents(size, run.schedule, [seed()])
        passes = [replace(p, capture=capture) for p in chosen.passes(run, step)]
        with torch.no_grad():
            predictions = run.predict(noise, step, passes)
    finally:
        ready.composer.close()
        ready.composer.family.pipe.to(torch.float32)
    assert all(torch.isfinite(p).all() for p in predictions.values())
    met = 0
    for maps in run.maps.values():
        for layer in maps["all"]:
            banned = Isolation(run.regions[None, :2]).blocks(layer.grid, 0, CPU)["image", "image"]
            strangers = banned[0].isneginf()
            met += int(strangers.any())
            assert (layer.values[0, 0][strangers] == 0).all()
            assert (layer.values[0, 0][~strangers] > 0).all()
            if layer.site.keys == "image":
                sums = layer.values.sum(-1)
                torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-4)
    assert met >= 2


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def alone(layer: nn.Module, x: Tensor, gate: Gate, slot: GateSlot, isolation: Isolation) -> Tensor:
    """One self-attention layer on tokens [1, H * W, d] under a gate, its regions isolated."""
    layout = TokenLayout(H, W)
    rows = Watched("cond", slice(0, 1), Images(0, 1, 1), bias=(isolation,))
    with (
        torch.no_grad(),
        slot.hold(gate, layout),
        Watch({SITE: layer}, layout, 77, [rows], slot=slot).watching(),
    ):
        out: Tensor = layer(x)
    return out


@pytest.mark.parametrize("modules", [("to_q", "to_out.0"), ("to_k", "to_v")])
def test_what_adapters_change_in_one_region_does_not_reach_another(
    sd15: Ready, tmp_path: Any, modules: tuple[str, ...]
) -> None:
    """One attention layer, exactly; without isolation changed keys and values do reach it, as
    `test_what_one_attention_layer_carries_across_a_border` shows.
    """
    sites = {"unet": [f"{ATTENTION}.{name}" for name in modules]}
    paths = replace(sd15.family, sites=sites).files(tmp_path, ranks=(4, 2))
    regions = {"a0": Box(0, 0, 0.375, 1), "a1": Box(0.625, 0, 1, 1)}  # and a strip between
    asked = sd15.family.request(paths, [1.0, 1.0], Regional(isolate=1.0), regions=regions)
    prepared = sd15.composer.prepare(asked)
    sd15.composer._install(prepared.adapters)
    slot = sd15.composer.slots["unet"]
    layer: Any = sd15.composer.family.denoiser.get_submodule(ATTENTION)
    x = torch.randn(1, H * W, layer.to_q.in_features)
    masks = torch.zeros(1, 2, H, W)
    masks[:, 0, :, :3] = masks[:, 1, :, 5:] = 1
    found = [
        alone(layer, x, Gate(torch.tensor([[loud, 1.0]]), image=masks), slot, Isolation(masks))
        for loud in (0.0, 1.0)
    ]
    change = (found[1] - found[0]).reshape(H, W, -1)
    assert change[:, :3].abs().max() > 1e-3
    assert torch.count_nonzero(change[:, 5:]) == 0
    strip = change[:, 3:5].abs().max()  # in no region: it sees all
    assert strip == 0 if "to_q" in modules else strip > 1e-3


def test_a_mirrored_picture_with_mirrored_regions_is_mirrored(sd15: Ready, tmp_path: Any) -> None:
    """Attention knows no left and right; a mix-up of rows and columns, or of grids, would."""
    sites = {"unet": [f"{ATTENTION}.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")]}
    paths = replace(sd15.family, sites=sites).files(tmp_path, ranks=(4, 2))
    regions = {"a0": Box(0, 0, 0.25, 0.5), "a1": Box(0.5, 0.25, 1, 1)}

    asked = sd15.family.request(paths, [1.0, 0.5], Regional(), regions=regions)
    prepared = sd15.composer.prepare(asked)
    sd15.composer._install(prepared.adapters)
    layer: Any = sd15.composer.family.denoiser.get_submodule(ATTENTION)

    def made(boxes: Sequence[Box], x: Tensor) -> Tensor:
        masks = drawn(boxes, (H, W))[None]
        gate = Gate(torch.tensor([[1.0, 0.5]]), image=masks)
        out = alone(layer, x.flatten(1, 2), gate, sd15.composer.slots["unet"], Isolation(masks))
        return out.unflatten(1, (H, W))

    boxes = list(regions.values())
    x = torch.randn(1, H, W, layer.to_q.in_features, generator=seed())
    one = made(boxes, x)
    mirrored = made([Box(1 - b.x1, b.y0, 1 - b.x0, b.y1) for b in boxes], x.flip(2))
    torch.testing.assert_close(mirrored.flip(2), one, rtol=1e-5, atol=1e-6)
    assert (made(boxes, x.flip(2)).flip(2) - one).abs().max() > 1e-3


def test_how_long_it_lasts_changes_the_picture_and_split_calls_do_not(ready: Ready) -> None:
    pictures = [latents(ready, Regional(isolate=share), HALVES) for share in (0.0, 0.5, 1.0)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (pictures[one] - pictures[other]).abs().max() > 1e-4
    ready.composer.close()
    asked = ready.family.request(ready.paths, WEIGHTS, Regional(isolate=1.0), regions=HALVES)
    with engine.composer(pipe=ready.composer.family.pipe, row_budget=1) as split:
        engine.assert_close(engine.latents(split, asked), pictures[2])
