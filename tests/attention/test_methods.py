"""Methods that read and change attention, from a request to the picture and under attach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from compose.attention import Columns, Isolation, text_layers
from compose.attention.maps import averaged, stretched
from compose.errors import RequestError
from compose.fusion.merge import Merge
from compose.gate import Gate
from compose.method import GatedMethod
from compose.passes import Pass
from compose.run import Run
from compose.types import Step
from tests import engine
from tests.attachment import pipelines as tiny
from tests.attention.runs import ALL
from tests.families import FAMILIES


@dataclass(frozen=True, kw_only=True)
class Apart(GatedMethod):
    """The left half and the right half do not see each other, in the rows of the prompt."""

    name: ClassVar[str] = "apart"
    title: ClassVar[str] = "Apart"
    source: ClassVar[str] = "tests"

    def gate(self, run: Run, step: Step) -> Gate:
        return Gate.all(run.scaled([1.0] * len(run.adapters)))

    def passes(self, run: Run, step: Step) -> list[Pass]:
        masks = torch.zeros(1, 2, 1, 2)
        masks[:, 0, :, 0] = masks[:, 1, :, 1] = 1
        passes = super().passes(run, step)
        return [replace(p, bias=(Isolation(masks),)) if p.name == "cond" else p for p in passes]


@dataclass(frozen=True, kw_only=True)
class Follow(Apart):
    """Moves the latents so that the first word's map fills more of the picture."""

    name: ClassVar[str] = "follow"
    needs: ClassVar[frozenset[str]] = frozenset({"capture", "grad"})

    def adjust(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        capture = {"word": Columns(text_layers(level=1), ((1,),))}
        passes = [replace(p, capture=capture) for p in self.passes(run, step) if p.name == "cond"]
        with torch.enable_grad():
            z = latents.detach().requires_grad_()
            maps = averaged(run.attention(z, step, passes)["cond"]["word"])
            loss = -stretched(maps).mean()
        (gradient,) = torch.autograd.grad(loss, z)
        return latents - 0.05 * gradient / gradient.square().mean().sqrt()


@pytest.mark.parametrize("name", ALL)
def test_a_method_follows_captured_attention(name, tmp_path) -> None:
    family = FAMILIES[name]
    paths = family.files(tmp_path)[:2]
    with engine.composer(pipe=family.build()) as composer:
        made = {}
        for method in (Merge(), Apart(), Follow()):
            asked = family.request(paths, [0.8, 0.5], method, steps=2)
            latents, run = composer.latents(composer.prepare(asked))
            assert torch.isfinite(latents).all() and not latents.requires_grad
            made[method.name] = latents
            assert run.calls.forwards == (4 if method.name == "follow" else 2)
            again, _ = composer.latents(composer.prepare(asked))
            assert torch.equal(latents, again)
        assert (made["merge"] - made["apart"]).abs().max() > 1e-4
        assert (made["apart"] - made["follow"]).abs().max() > 1e-3


def test_biases_act_the_same_under_attach(tmp_path) -> None:
    paths = engine.files(tmp_path)[:2]
    composer = engine.composer()
    weights = tiny.WEIGHTS[:2]
    asked = engine.request(paths, weights, Apart())
    with composer:
        expected = engine.latents(composer, asked)
        other = engine.latents(composer, replace(asked, method=Merge()))
    with tiny.attach(composer.family.pipe, paths, Apart()):
        got = engine.stock(composer.family.pipe, asked)
    engine.assert_close(got, expected)
    assert (got - other).abs().max() > 1e-3
    assert not any("forward" in vars(m) for m in composer.family.denoiser.modules())


def test_captures_are_refused_under_attach(tmp_path) -> None:
    paths = engine.files(tmp_path)[:1]
    with pytest.raises(RequestError, match=r"attention maps.*gradients"):
        tiny.attach(tiny.pipeline("text"), paths, Follow())
