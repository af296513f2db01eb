"""What an attachment leaves behind: nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import compose
from compose.attachment import attached as home
from compose.errors import AdapterMismatchError
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from compose.layers import GatedLoraLayer
from tests import engine
from tests.attachment import pipelines as tiny
from tests.tiny import random_adapter_file

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks"),
    "_backward_pre_hooks",
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4))


def state(pipe: Any) -> dict[str, Any]:
    """Everything about a pipeline and its modules that an attachment could have changed."""
    found: dict[str, Any] = {"pipe": {n: id(v) for n, v in vars(pipe).items() if n[0] != "_"}}
    for part, model in pipe.components.items():
        if not isinstance(model, nn.Module):
            continue
        found[part] = [(name, id(module)) for name, module in model.named_modules()]
        for name, module in model.named_modules():
            own = vars(module)
            found[part, name] = (
                sorted(own),
                own.get("forward"),
                [list(own[hooks]) for hooks in HOOKS],
                [(n, id(p), p._version) for n, p in module.named_parameters(recurse=False)],
                [(n, id(b)) for n, b in module.named_buffers(recurse=False)],
                module.training,
            )
    return found


@pytest.mark.parametrize("kind", ["text", "inpaint9", "controlnet"])
def test_detaching_leaves_no_trace(paths, kind) -> None:
    pipe = tiny.pipeline(kind)
    expected = tiny.call(kind, pipe)
    before = state(pipe)
    for method in (Merge(), Switch(every=1), Composite()):
        attached = tiny.attach(pipe, paths, method, text_weight=0.0)
        assert any(isinstance(m, GatedLoraLayer) for m in pipe.unet.modules())
        assert state(pipe) != before
        assert not torch.equal(tiny.call(kind, pipe), expected)
        attached.detach()
        assert state(pipe) == before
        attached.detach()
        assert state(pipe) == before
        assert attached.calls.forwards == len(attached.trace) == 4
        assert torch.equal(tiny.call(kind, pipe), expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("method", [Switch(every=1), Composite()], ids=lambda m: m.name)
def test_an_exception_in_a_callback_leaves_no_trace(paths, error, method) -> None:
    pipe = tiny.pipeline("img2img")
    expected = tiny.call("img2img", pipe)
    before = state(pipe)

    def fail(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise error
        return tensors

    with pytest.raises(error), tiny.attach(pipe, paths, method) as attached:
        tiny.call("img2img", pipe, callback_on_step_end=fail)
    assert attached.calls.forwards == 2
    assert state(pipe) == before
    assert torch.equal(tiny.call("img2img", pipe), expected)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_an_exception_inside_a_model_leaves_no_trace_and_the_next_call_is_whole(
    paths, part
) -> None:
    """Once between the two hooks, where a call is half-way."""
    pipe = tiny.pipeline("text")
    plain = tiny.call("text", pipe)
    before = state(pipe)
    with tiny.attach(pipe, paths, Composite()) as attached:
        expected = tiny.call("text", pipe)
        norm = next(m for m in getattr(pipe, part).modules() if type(m).__name__.endswith("Norm"))
        forward, norm.forward = norm.forward, None
        with pytest.raises(TypeError):
            tiny.call("text", pipe)
        norm.forward = forward
        assert torch.equal(tiny.call("text", pipe), expected)
        norm.forward = None
        with pytest.raises(TypeError):
            tiny.call("text", pipe)
        del norm.forward
    assert all(slot.gate is None for slot in attached._slots.values())
    assert state(pipe) == before
    assert torch.equal(tiny.call("text", pipe), plain)


@pytest.mark.parametrize("culprit", ["install", "Prompts", "Around"])
def test_attaching_that_fails_halfway_leaves_no_trace(paths, monkeypatch, culprit) -> None:
    pipe = tiny.pipeline("text")
    before = state(pipe)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("halfway")

    monkeypatch.setattr(home, culprit, fail)
    with pytest.raises(RuntimeError, match="halfway"):
        tiny.attach(pipe, paths, Merge())
    assert state(pipe) == before


def test_an_adapter_that_does_not_fit_leaves_no_trace(paths, tmp_path) -> None:
    pipe = tiny.pipeline("text")
    before = state(pipe)
    odd = random_adapter_file(tmp_path / "odd.safetensors", unet=("conv_in",))
    wide = tiny.pipeline("inpaint9")
    with pytest.raises(AdapterMismatchError, match="conv_in"):
        tiny.attach(wide, [odd], Merge())
    pipe.unet.conv_in.padding_mode = "circular"
    with pytest.raises(AdapterMismatchError, match="circular"):
        tiny.attach(pipe, [paths[0], odd], Merge())
    assert state(pipe) == before


def test_warnings_as_errors_leave_no_trace(tmp_path) -> None:
    """Attaching itself warns of keys that fit nothing, before anything is changed."""
    (path,) = engine.files(tmp_path, ranks=(2,), layout="diffusers", alpha=None)
    pipe = tiny.pipeline("text")
    pipe.text_encoder = None
    before = state(pipe)
    with pytest.raises(compose.AttachWarning, match="3 of its keys fit nothing"):
        tiny.attach(pipe, [path], Merge())
    assert state(pipe) == before


@pytest.mark.parametrize("first", [True, False], ids=["offload first", "attach first"])
def test_model_offloading_goes_with_it(paths, first) -> None:
    """At the end of every call the pipeline takes accelerate's hooks out and puts new ones in,
    which replaces the models' `forward`.
    """
    pytest.importorskip("accelerate")
    pipe = tiny.pipeline("img2img")
    with tiny.attach(pipe, paths, Switch(every=1)):
        expected = tiny.call("img2img", pipe)
    plain = tiny.call("img2img", pipe)
    if first:
        pipe.enable_model_cpu_offload(device="cpu")
    with tiny.attach(pipe, paths, Switch(every=1)):
        if not first:
            pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert torch.equal(tiny.call("img2img", pipe), expected)
    assert torch.equal(tiny.call("img2img", pipe), plain)
    pipe.remove_all_hooks()
    assert torch.equal(tiny.call("img2img", pipe), plain)


def test_hooks_of_others_stay(paths) -> None:
    """A user's own hooks on the denoiser run around ours, and are there afterwards."""
    pipe, seen = tiny.pipeline("text"), []
    handle = pipe.unet.register_forward_hook(lambda module, args, out: seen.append(out[0].shape[0]))
    before = state(pipe)
    with tiny.attach(pipe, paths, Composite()):
        tiny.call("text", pipe)
    assert state(pipe) == before
    assert seen == [4] * 4
    tiny.call("text", pipe)
    assert seen == [4] * 4 + [2] * 4
    handle.remove()


def test_two_calls_give_the_same_picture(paths) -> None:
    pipe = tiny.pipeline("controlnet_inpaint")
    for method in (Merge(), Switch(every=1), Composite()):
        with tiny.attach(pipe, paths, method, text_weight=0.0) as attached:
            one = tiny.call("controlnet_inpaint", pipe)
            trace = attached.trace
            tiny.call("controlnet_inpaint", pipe, guidance_scale=1.0, prompt=["cat", "dog"])
            assert torch.equal(tiny.call("controlnet_inpaint", pipe), one)
            assert attached.trace == trace and attached.trace is not trace
