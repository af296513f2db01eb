"""Keys and values that every image token sees by where it is, against a loop over the queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.attention.bias import TextBias, membership
from compose.gate import Gate
from compose.types import AttentionSite
from tests.attention.placed import (
    CAPTURE,
    GRID,
    LAYER,
    UNETS,
    Loop,
    by_loop,
    drawn,
    under,
    uneven,
)
from tests.attention.runs import standing


@pytest.mark.parametrize("name", UNETS)
def test_every_query_sees_what_a_loop_over_queries_gives_it(name, files) -> None:
    """Rows with gates of their own, ranks that differ, words, layers and weights in the gate too;
    what is captured on the way is what the layer computes.
    """
    here = standing(name, paths=files[name])
    cond, uncond = uneven(), uneven(queries=drawn(2, 3, *GRID, seed=7))
    got, plain = under(here, cond, uncond, capture=CAPTURE), under(here, cond, uncond)
    expected, loops = by_loop(here, cond, uncond)
    got.close(expected)
    assert all(torch.equal(p, got.predictions[side]) for side, p in plain.predictions.items())
    flat = under(here, replace(cond, queries=None), uncond)
    assert (flat.predictions["cond"] - got.predictions["cond"]).abs().max() > 1e-3
    for layer in got.maps["cond"]["words"]:
        torch.testing.assert_close(
            layer.values, loops[layer.site].probabilities[2:], rtol=0, atol=1e-10
        )
    for layer in got.maps["cond"]["outputs"]:
        torch.testing.assert_close(layer.values, loops[layer.site].outputs[2:], rtol=0, atol=1e-10)
    assert len(got.maps["cond"]["words"]) == len(loops) > 5


def test_biases_add_up_with_it(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    masks = torch.zeros(1, 2, *GRID)
    masks[:, 0, :, :12] = masks[:, 1, :, 12:] = 1
    chosen = TextBias(masks, membership(((1, 2), (4, 6)), 77), own=1.5, other=-0.5)

    def bias(site: AttentionSite) -> Tensor:
        grid = here.family.layout(here.latents).grid(site.level or 0)
        block = chosen.blocks(grid, 77, torch.device("cpu"))["image", "text"][:, None]
        return torch.cat(
            [torch.zeros_like(block).expand(2, -1, -1, -1), block.expand(2, -1, -1, -1)]
        )

    got = under(here, uneven(), uneven(), bias=(chosen,))
    expected, _ = by_loop(here, uneven(), uneven(), bias)
    got.close(expected)


@pytest.mark.parametrize("name", UNETS)
def test_gradients_are_those_of_the_loop(name, files) -> None:
    here = standing(name, paths=files[name])
    cond, uncond = uneven(), uneven()

    def gradient() -> Tensor:
        z = here.latents.clone().requires_grad_()
        gates = {"cond": cond, "uncond": uncond}
        passes = [replace(p, gate=gates[p.name]) for p in here.passes]
        with torch.enable_grad():
            out = here.run.predict(z, here.step, passes)["cond"]
        return torch.autograd.grad(out.square().sum(), z)[0]

    got = gradient()
    layers = {s: m for s, m in here.family.attention_layers().items() if s.keys == "text"}
    for site, module in layers.items():
        module.processor = Loop(here, site, [uncond, cond])
    cond, uncond = (replace(g, queries=None) for g in (cond, uncond))
    expected = gradient()
    assert float((got - expected).abs().max()) < 1e-9 * float(expected.abs().max())


@pytest.mark.parametrize("name", UNETS)
def test_the_same_at_all_places_is_the_ordinary_gate(name, files) -> None:
    here = standing(name, paths=files[name])
    share = torch.tensor([[1.0, 0.5, 0.0], [0.25, 1.0, 0.5]])
    flat = uneven(queries=None, text=share[:, None].expand(-1, 77, -1).clone())
    even = uneven(text=None, queries=share[..., None, None].expand(-1, -1, *GRID).clone())
    off = Gate.off(3)
    ordinary = under(here, flat, off).predictions
    assert torch.equal(under(here, even, off).predictions["cond"], ordinary["cond"])
    # In one call with rows that see differently, all go the long way.
    mixed = under(here, even, uneven()).predictions
    torch.testing.assert_close(mixed["cond"], ordinary["cond"], rtol=1e-10, atol=1e-12)


def test_rows_without_adapters_and_gates_of_zero_are_the_base(files) -> None:
    here = standing("sd15", paths=files["sd15"])
    base = under(here, Gate.off(3), Gate.off(3)).predictions
    nothing = uneven(queries=torch.zeros(2, 3, *GRID), image=torch.zeros(2, 3, 1, 1))
    for side, prediction in under(here, nothing, nothing).predictions.items():
        assert torch.equal(prediction, base[side])
    got = under(here, uneven(), Gate.off(3)).predictions
    torch.testing.assert_close(got["uncond"], base["uncond"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("where", ["own", "other"])
def test_a_place_with_a_gate_of_zero_does_not_hear_the_adapter(where, files) -> None:
    """Bit for bit: however loud the adapter is, and what the base says there beyond rounding."""
    here = standing("sd15", paths=files["sd15"])
    left = torch.zeros(1, 3, *GRID)
    left[:, :, :, : GRID[1] // 2] = 1
    heard: list[Tensor] = []
    layer = here.family.denoiser.get_submodule(LAYER)

    def first(module: nn.Module, args: Any, kwargs: Any) -> Any:
        inputs = torch.linspace(-1, 1, args[0].numel(), dtype=torch.float64).view_as(args[0])
        return (inputs, *args[1:]), kwargs

    hooks = [
        layer.register_forward_pre_hook(first, with_kwargs=True),
        layer.register_forward_hook(lambda module, args, out: heard.append(out)),
    ]
    for loud in (0.0, 1.0, 9.0):
        gate = Gate(torch.full((1, 3), loud), queries=left, image=torch.zeros(1, 3, 1, 1))
        under(here, gate, Gate.off(3))
    for hook in hooks:
        hook.remove()
    base, one, nine = (out[2:].unflatten(1, (8, 12)) for out in heard)
    half = slice(0, 6) if where == "own" else slice(6, 12)
    if where == "own":
        assert (one - base)[:, :, half].abs().max() > 1e-2
        assert (one - nine)[:, :, half].abs().max() > 1e-2
    else:
        assert torch.equal(one[:, :, half], nine[:, :, half])
        torch.testing.assert_close(one[:, :, half], base[:, :, half], rtol=0, atol=1e-13)
