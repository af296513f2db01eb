"""LoRA-Composer: latents follow the losses on attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.attention.masks import on_grid
from compose.fusion.lora_composer import LoraComposer
from compose.regions import Box, Mask
from compose.run import Run
from compose.types import Step
from tests.fusion.lora_composer.made import RIGHT, Made, by_hand, close, made


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
