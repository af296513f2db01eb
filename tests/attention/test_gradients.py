"""Gradients from captured attention back to the latents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compose.attention.capture import Columns
from compose.attention.layers import image_layers, text_layers
from compose.attention.maps import averaged
from tests.attention.runs import ALL, Standing, standing
from tests.families import FAMILIES


def loss(here: Standing, latents: Tensor) -> Tensor:
    """Something that every captured number enters with a weight of its own."""
    capture = {
        "words": Columns(text_layers(level=1), ((1, 4), (2, 0))),
        "self": Columns(image_layers(level=1), ((0, 5, 17),), keys="image"),
    }
    captured = here.run.attention(latents, here.step, here.under(capture=capture))["cond"]
    total = latents.new_zeros(())
    for layers in captured.values():
        maps = averaged(layers)
        weights = torch.linspace(-1, 2, maps.numel(), dtype=maps.dtype).view_as(maps).sin()
        total = total + (maps * weights).sum()
    return total


EXACT = {"step": 1e-5, "share": 1e-6}
ROUNDED = {"step": 1e-3, "share": 1e-2}
"""FLUX rotates queries and keys in float32, whatever it computes in."""


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_finite_differences(name, tmp_path) -> None:
    family = FAMILIES[name]
    here = standing(name, pipe=family.build(), paths=family.files(tmp_path)[:1])
    latents = here.latents.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(here, latents), latents)
    assert all(p.grad is None for p in here.family.denoiser.parameters())
    torch.manual_seed(0)
    step, share = (ROUNDED if name == "flux" else EXACT).values()
    for _ in range(3):
        direction = torch.randn_like(here.latents)
        with torch.no_grad():
            up, down = (loss(here, here.latents + s * direction) for s in (step, -step))
        expected = (up - down) / (2 * step)
        got = (gradient * direction).sum()
        assert abs(got - expected) <= share * abs(expected) + 1e-11
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0  # every image has its own


def test_predictions_can_be_differentiated_beside_a_capture() -> None:
    here = standing("sd15", images=1)
    capture = {"words": Columns(text_layers(), ((1,),))}
    latents = here.latents.clone().requires_grad_()
    under = here.run.predict(latents, here.step, here.under(capture=capture))
    without = here.run.predict(latents, here.step, here.passes)
    for name, prediction in without.items():
        (ours,) = torch.autograd.grad(under[name].square().sum(), latents, retain_graph=True)
        (theirs,) = torch.autograd.grad(prediction.square().sum(), latents, retain_graph=True)
        assert torch.equal(ours, theirs)


def test_no_graph_is_kept_without_gradients() -> None:
    here = standing("sd15", images=1)
    capture = {"words": Columns(text_layers(), ((1,),))}
    here.predict(capture=capture)
    assert not any(c.values.requires_grad for c in here.run.maps["cond"]["words"])
    passes = [replace(p, capture=capture) for p in here.passes]
    got = here.run.attention(here.latents, here.step, passes)  # gradients on, none wanted
    assert not any(c.values.requires_grad for c in got["cond"]["words"])
