"""Which step a denoiser call belongs to, for every kind of schedule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from compose.attachment.clock import Clock
from compose.errors import RequestError
from compose.fusion.switch import Switch
from compose.types import Step
from tests import engine
from tests.attachment import pipelines as tiny

SOLVERS = (
    *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"),
    *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    "LCMScheduler",
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4, 3), text=())


class Watch:
    """Keeps the steps that a method was asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        shares = Switch.shares

        def watched(method: Switch, run: Any, step: Step) -> Any:
            if not self.steps or self.steps[-1] is not step:
                self.steps.append(step)
            return shares(method, run, step)

        monkeypatch.setattr(Switch, "shares", watched)


# numpy, called on a torch tensor the old way by diffusers' DEIS and KDPM2
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
@pytest.mark.parametrize("kind", ["text", "img2img"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_are_those_of_the_pipelines_own_loop(paths, monkeypatch, kind, solver) -> None:
    """The callback is told position and timestep by the loop itself."""
    pipe = tiny.pipeline(kind)
    pipe.scheduler = getattr(diffusers, solver).from_config(pipe.scheduler.config)
    watch, told = Watch(monkeypatch), []

    def callback(pipe: Any, index: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        sigmas = getattr(pipe.scheduler, "sigmas", None)
        told.append((index, float(t), sigmas))
        return {}

    more = {"num_inference_steps": 6, "callback_on_step_end": callback}
    with tiny.attach(pipe, paths, Switch(every=2)) as attached:
        tiny.call(kind, pipe, **more)
    assert [(s.index, float(s.t)) for s in watch.steps] == [(i, t) for i, t, _ in told]
    assert {s.total for s in watch.steps} == {len(told)}
    assert attached.calls.forwards == len(told)
    first = len(pipe.scheduler.timesteps) - len(told)
    assert (first > 0) == (kind == "img2img")
    for step, (index, _, sigmas) in zip(watch.steps, told, strict=True):
        if sigmas is not None:
            assert step.sigma == float(sigmas[first + index])
    levels = [step.sigma for step in watch.steps]
    assert levels == sorted(levels, reverse=True) or solver.startswith("KDPM2")


def test_one_pipeline_with_one_scheduler_after_another(paths) -> None:
    """The same pictures as with a pipeline of its own for every scheduler, and twice the same."""
    pipe = tiny.pipeline("img2img")
    own, alone = pipe.scheduler.config, {}
    for solver in ("DDIMScheduler", "PNDMScheduler", "HeunDiscreteScheduler"):
        fresh = tiny.pipeline("img2img")
        fresh.scheduler = getattr(diffusers, solver).from_config(own)
        with tiny.attach(fresh, paths, Switch(every=1)):
            alone[solver] = tiny.call("img2img", fresh)
    with tiny.attach(pipe, paths, Switch(every=1)) as attached:
        for solver in (*alone, "DDIMScheduler"):
            pipe.scheduler = getattr(diffusers, solver).from_config(own)
            for _ in range(2):
                assert torch.equal(tiny.call("img2img", pipe), alone[solver])
            assert [record.step for record in attached.trace] == list(range(len(attached.trace)))


@pytest.mark.parametrize("kind", ["text", "img2img"])
def test_timesteps_that_the_caller_chooses(paths, monkeypatch, kind) -> None:
    pipe = tiny.pipeline(kind)
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    watch = Watch(monkeypatch)
    with tiny.attach(pipe, paths, Switch(every=1)):
        tiny.call(kind, pipe, timesteps=[900, 500, 300, 200, 10], num_inference_steps=None)
    visited = [900, 500, 300, 200, 10] if kind == "text" else [300, 200, 10]
    assert [(s.index, int(s.t)) for s in watch.steps] == list(enumerate(visited))


def clock(timesteps: list[float], total: int, first: Any) -> Clock:
    scheduler = SimpleNamespace(
        timesteps=torch.tensor(timesteps), config=SimpleNamespace(num_train_timesteps=1000)
    )
    return Clock(SimpleNamespace(scheduler=scheduler, num_timesteps=total), first)


@pytest.mark.parametrize(
    "form", [float, torch.tensor, lambda t: torch.tensor([t, t]), lambda t: torch.tensor([t])]
)
def test_a_timestep_may_be_a_number_or_a_tensor_with_and_without_rows(form) -> None:
    told = clock([900.0, 500.0, 500.0, 100.0], 3, form(500.0))
    found = [told.step(form(t)) for t in (500.0, 500.0, 100.0)]
    assert [(s.index, s.total, float(s.t)) for s in found] == [
        (0, 3, 500.0),
        (1, 3, 500.0),
        (2, 3, 100.0),
    ]
    assert found[1].sigma == 0.5


def test_a_run_may_visit_the_first_timesteps_only() -> None:
    told = clock([900.0, 700.0, 500.0, 300.0], 2, 900.0)
    assert [told.step(t).index for t in (900.0, 700.0)] == [0, 1]
    with pytest.raises(RequestError, match="step 2 of 2 was due"):
        told.step(500.0)


def test_calls_that_do_not_follow_the_schedule_are_refused() -> None:
    told = clock([900.0, 700.0], 2, 900.0)
    told.step(900.0)
    with pytest.raises(RequestError, match=r"at timestep 900\.0 where step 1 of 2 was due"):
        told.step(900.0)
    with pytest.raises(RequestError, match="one call a step"):
        clock([900.0, 700.0], 2, 900.0).step(torch.tensor([900.0, 700.0]))


def test_another_pipeline_over_the_same_denoiser_is_refused(paths) -> None:
    """It has a guidance, and steps, that nobody here knows of."""
    pipe = tiny.pipeline("img2img")
    other = diffusers.StableDiffusionPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    with tiny.attach(pipe, paths, Switch(every=1)):
        for _ in range(2):
            with pytest.raises(RequestError, match="outside a call of the attached StableDiff"):
                tiny.call("text", other)
        mine = tiny.call("img2img", pipe)
        with pytest.raises(RequestError, match="outside a call of the attached StableDiff"):
            tiny.call("text", other)
        with pytest.raises(RequestError, match=r"was due|outside a call"):
            pipe.unet(torch.zeros(2, 4, 8, 8), 5, torch.zeros(2, 77, 32))
        assert torch.equal(tiny.call("img2img", pipe), mine)
