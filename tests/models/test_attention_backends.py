"""Attention back ends: who obeys, what is routed, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor

from compose.attention.bias import Isolation
from compose.attention.capture import Columns
from compose.attention.layers import image_layers, text_layers
from compose.errors import CaptureError, KernelUnavailableError, RequestError
from compose.models import routing
from compose.models.backends import BACKENDS, NATIVE
from compose.models.loading import load
from compose.models.options import LoadOptions
from tests.attention.runs import ALL, standing
from tests.tiny import tiny_folder

CPU = torch.device("cpu")
CAPTURE = {"words": Columns(text_layers(), ((1, 4),), heads=True)}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[dict[str, Any]]]:
    """The calls that reach a back end of diffusers."""
    registry, key = _AttentionBackendRegistry._backends, AttentionBackendName(name)
    inner, calls = registry[key], []

    def count(**kwargs: Any) -> Tensor:
        calls.append(kwargs)
        return inner(**kwargs)

    with monkeypatch.context() as patch:
        patch.setitem(registry, key, count)
        yield calls


@pytest.mark.parametrize("name", ALL)
def test_every_layer_of_every_family_runs_in_the_back_end(name, monkeypatch) -> None:
    here = standing(name)
    plain = here.predict()
    with counted(monkeypatch, "_native_math") as calls:
        here.predict()
        assert calls == []
        here.family.use_attention_backend("_native_math")
        tried = len(calls)
        got = here.predict()
    assert tried == 1 and len(calls) - tried == len(here.family.attention_layers())
    for side, prediction in plain.items():
        assert torch.allclose(got[side], prediction, rtol=1e-8, atol=1e-10)


def test_stock_diffusers_passes_the_choice_over_on_a_unet(monkeypatch) -> None:
    """Why layers are routed at all."""
    here = standing("sd15")
    with (
        counted(monkeypatch, "_native_math") as calls,
        attention_dispatch.attention_backend(NATIVE),
    ):
        here.family.denoiser.set_attention_backend("_native_math")
        here.predict()
    assert calls == []


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_native_is_bit_equal_to_no_choice(name) -> None:
    here = standing(name, dtype=torch.float32)
    plain = here.predict()
    here.family.use_attention_backend(NATIVE)
    assert all(torch.equal(p, plain[n]) for n, p in here.predict().items())


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_the_choice_is_the_models_own_and_not_the_process(name) -> None:
    before = _AttentionBackendRegistry.get_active_backend()
    here, other = standing(name), standing(name)
    here.family.use_attention_backend("_native_math")
    assert _AttentionBackendRegistry.get_active_backend() == before
    assert all(
        getattr(layer.processor, "_attention_backend", None) is None
        for layer in other.family.attention_layers().values()
    )
    here.predict()
    assert not any("forward" in vars(m) for m in here.family.denoiser.modules())


@pytest.mark.parametrize("backend", ["_native_math", "_native_flash"])
@pytest.mark.parametrize("name", ["sd15", "sd3", "flux"])
def test_captured_layers_keep_the_back_end_and_their_bits(name, backend, monkeypatch) -> None:
    here = standing(name, dtype=torch.float32)
    here.predict(capture=CAPTURE)
    native = here.run.maps["cond"]["words"]
    here.family.use_attention_backend(backend)
    expected = here.predict()
    with counted(monkeypatch, backend) as calls:
        got = here.predict(capture=CAPTURE)
    assert len(calls) == len(here.family.attention_layers())
    assert all(torch.equal(got[n], p) for n, p in expected.items())
    for ours, theirs in zip(here.run.maps["cond"]["words"], native, strict=True):
        assert torch.allclose(ours.values, theirs.values, atol=1e-5)


def test_a_processor_that_layers_share_is_changed_for_one_forward_only() -> None:
    here = standing("flux")
    layers: Any = list(here.family.attention_layers().values())
    for layer in layers:
        layer.processor = layers[0].processor
    here.family.use_attention_backend("_native_math")
    seen = []
    layers[1].register_forward_pre_hook(lambda m, args: seen.append(m.processor._attention_backend))
    first = next(iter(here.family.attention_layers()))
    here.predict(capture={"a": Columns(lambda site: site == first, ((1,),))})
    assert seen == [AttentionBackendName("_native_math")]
    assert layers[0].processor._attention_backend == AttentionBackendName("_native_math")


def test_an_unwatched_layer_of_a_back_end_without_softmax_call_runs_on(monkeypatch) -> None:
    """As xformers: a back end that never comes to torch's function. Watched layers show their
    queries on the way to it."""

    def foreign(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2)

    key = AttentionBackendName("_native_math")
    monkeypatch.setitem(_AttentionBackendRegistry._backends, key, foreign)
    for name in ("sd15", "flux"):
        here = standing(name)
        here.predict(capture=CAPTURE)
        native = here.run.maps["cond"]["words"]
        here.family.use_attention_backend("_native_math")
        expected = here.predict()
        got = here.predict(capture=CAPTURE)
        assert all(torch.equal(got[n], p) for n, p in expected.items())
        for ours, theirs in zip(here.run.maps["cond"]["words"], native, strict=True):
            assert torch.allclose(ours.values, theirs.values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_biases_go_where_masks_are_taken_and_are_refused_elsewhere(name) -> None:
    masks = torch.zeros(1, 2, 4, 6)
    masks[:, 0, :, :3] = masks[:, 1, :, 3:] = 1
    bias = (Isolation(masks),)
    here = standing(name)
    native = here.predict(bias=bias)
    here.family.use_attention_backend("_native_math")
    got = here.predict(bias=bias)
    assert torch.allclose(got["cond"], native["cond"], rtol=1e-8, atol=1e-10)
    here.family.use_attention_backend("_native_flash")
    with pytest.raises(CaptureError, match=r"biased at .*attn.*_native_flash takes no masks"):
        here.predict(bias=bias)


def test_masks_for_xformers_begin_their_rows_at_multiples_of_eight() -> None:
    mask = torch.randn(2, 1, 5, 77)
    aligned = routing._aligned(mask)
    assert torch.equal(aligned, mask)
    assert aligned.stride(-2) % 8 == 0 and aligned.stride(-1) == 1


def test_a_processor_that_would_pass_a_back_end_over_is_refused() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    here = standing("sd15")
    here.family.denoiser.set_attn_processor(AttnProcessor())
    here.family.use_attention_backend("_native_math")
    with pytest.raises(CaptureError, match=r"back end _native_math was to run at .* AttnProcessor"):
        here.predict()


@pytest.mark.parametrize("name", ["xformers", "flash", "_flash_3", "sage", "_native_cudnn"])
def test_a_back_end_that_is_not_there_is_refused_by_name(name) -> None:
    if not routing.refusal(name, CPU, torch.float32):
        pytest.skip(f"{name} runs here")
    with pytest.raises(KernelUnavailableError, match=f"back end {name} cannot run here"):
        standing("sd15").family.use_attention_backend(name)


def test_an_unknown_back_end_is_refused() -> None:
    for refused in (
        lambda: LoadOptions(attention_backend="xformer"),
        lambda: standing("sd15").family.use_attention_backend("xformer"),
        lambda: LoadOptions(attention_backend="flash_hub"),
    ):
        with pytest.raises(RequestError, match=r"attention back end '.*' is unknown"):
            refused()


def test_every_back_end_is_one_of_diffusers() -> None:
    known = {member.value for member in AttentionBackendName}
    assert set(BACKENDS) <= known
    assert not any("hub" in name for name in BACKENDS)


def test_a_model_is_loaded_with_a_back_end(tmp_path: Path, monkeypatch) -> None:
    folder = str(tiny_folder(tmp_path / "model"))
    options = LoadOptions(attention_backend="_native_math")
    assert options.deciding() == {"attention_backend": "_native_math"}
    with counted(monkeypatch, "_native_math") as calls:
        family = load(folder, device=CPU, options=options)
        tried = len(calls)
        text = family.encode(["a cat"])
        layers = family.attention_layers()
        with torch.no_grad(), family.routed(layers):
            family.predict(torch.zeros(1, 4, 16, 16), family.schedule(2).step(0), text)
    assert len(calls) - tried == len(layers)
    monkeypatch.setattr(routing, "refusal", lambda *_: "no such thing")
    with pytest.raises(KernelUnavailableError, match="no such thing"):
        load(folder, device=CPU, options=options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALL)
def test_xformers_on_a_gpu(name) -> None:
    pytest.importorskip("xformers")
    here = standing(name, dtype=torch.float16, device="cuda")
    plain = here.predict(capture=CAPTURE)
    native = here.run.maps["cond"]["words"]
    here.family.use_attention_backend("xformers")
    got = here.predict()
    assert all((got[n] - p).abs().max() < 0.02 * p.abs().max() for n, p in plain.items())
    under = here.predict(capture=CAPTURE)
    assert all(torch.equal(under[n], p) for n, p in got.items())
    for ours, theirs in zip(here.run.maps["cond"]["words"], native, strict=True):
        assert torch.allclose(ours.values, theirs.values, atol=2e-3)
    masks = torch.zeros(1, 2, 4, 6)
    masks[:, 0, :, :3] = masks[:, 1, :, 3:] = 1
    bias = (Isolation(masks, image_layers()),)
    ours = here.predict(bias=bias)
    here.family.use_attention_backend(NATIVE)
    theirs = here.predict(bias=bias)
    assert (ours["cond"] - theirs["cond"]).abs().max() < 0.02 * theirs["cond"].abs().max()
