"""Offloading changes where weights lie and not a bit of the picture.

On a CPU accelerate's hooks are attached with the CPU as the device of execution: with sequential
offload the weights then lie on the meta device between calls, as they do with a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from torch import nn

from compose.adapters.adapter import Adapter, AdapterSet, Factors
from compose.adapters.library import AdapterLibrary
from compose.composer import Composer
from compose.errors import RequestError
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from compose.gate import Gate
from compose.layers import GatedLoraLayer, install
from compose.method import CompositionMethod
from compose.models.family import Family
from compose.models.options import LoadOptions
from compose.request import Request
from compose.slot import GateSlot
from compose.types import Site
from tests import engine
from tests.tiny import tiny_folder

METHODS = (Merge(), Switch(every=1), Composite())


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return engine.files(tmp_path_factory.mktemp("adapters"))


def asked(paths: list[Path], method: CompositionMethod, **more: object) -> Request:
    return engine.request(paths, [0.8, -0.5, 0.6], method, steps=2, **more)


def base() -> Request:
    """The same without adapters."""
    return engine.request([], [], Merge(), steps=2)


def drawn(composer: Composer, request: Request) -> list[bytes]:
    return [made.image.tobytes() for made in composer.generate(request).images]


def sequential(family: Family) -> None:
    """What `enable_sequential_cpu_offload` does, which refuses to run without a GPU."""
    for part in (family.pipe.unet, family.pipe.text_encoder, family.pipe.vae):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


def gated(family: Family) -> Iterator[GatedLoraLayer]:
    for part in family.components.values():
        yield from (m for m in part.modules() if isinstance(m, GatedLoraLayer))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_sequential_offload_is_bit_equal(paths, method) -> None:
    plain, off = engine.composer(), engine.composer()
    request = asked(paths, method, seeds=(3, 4))
    sequential(off.family)
    assert drawn(off, request) == drawn(plain, request)
    layers = list(gated(off.family))
    assert len(layers) > 10
    for layer in layers:
        assert layer.base.weight.is_meta and layer.weight.is_meta  # seen through the layer too
        assert not layer.lora_down.is_meta and not layer.lora_up.is_meta


def test_eject_leaves_the_hooks_of_offloading(paths) -> None:
    off = engine.composer()
    sequential(off.family)
    modules = dict(off.family.denoiser.named_modules())
    hooks = {name: getattr(m, "_hf_hook", None) for name, m in modules.items()}
    before = drawn(off, base())
    drawn(off, asked(paths, Merge()))
    off.close()
    after = dict(off.family.denoiser.named_modules())
    assert after == modules
    assert {name: getattr(m, "_hf_hook", None) for name, m in after.items()} == hooks
    assert all(p.is_meta for p in off.family.denoiser.parameters())
    assert drawn(off, base()) == before


def test_offloading_can_come_and_go_around_installed_layers(paths) -> None:
    plain, off = engine.composer(), engine.composer()
    request = asked(paths, Merge())
    expected = drawn(plain, request)
    assert drawn(off, request) == expected  # layers are in
    sequential(off.family)
    assert drawn(off, request) == expected
    off.family.pipe.remove_all_hooks()
    assert not any(p.is_meta for p in off.family.denoiser.parameters())
    assert drawn(off, request) == expected
    off.close()
    assert not any(hasattr(m, "_hf_hook") for m in off.family.denoiser.modules())
    assert drawn(off, request) == expected


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_model_offload_is_bit_equal_and_every_part_is_fetched(
    paths, method, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, off = engine.composer(), engine.composer()
    request = asked(paths, method, seeds=(3, 4))
    off.family.pipe.enable_model_cpu_offload(device="cpu")
    fetched: list[str] = []
    bring = CpuOffload.pre_forward

    def told(hook, module, *args, **kwargs):  # type: ignore[no-untyped-def]
        fetched.append(type(module).__name__)
        return bring(hook, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", told)
    assert drawn(off, request) == drawn(plain, request)
    assert fetched.count("AutoencoderKL") == 2
    last = fetched.index("AutoencoderKL")
    for picture in (fetched[: last + 1], fetched[last + 1 :]):
        assert picture[0] == "CLIPTextModel" and picture[-2] == "UNet2DConditionModel"
        assert picture[-1] == "AutoencoderKL"


def test_everything_goes_back_after_a_picture_and_after_an_interruption(paths) -> None:
    off = engine.composer()
    pipe = off.family.pipe
    pipe.enable_model_cpu_offload(device="cpu")
    before = pipe.unet._hf_hook
    drawn(off, asked(paths, Merge()))
    first = pipe.unet._hf_hook
    assert first is not before  # hooks are put on anew, as at the end of a stock pipeline's call

    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        off.generate(asked(paths, Merge()), progress=stop)
    assert pipe.unet._hf_hook is not first
    second = pipe.unet._hf_hook
    engine.latents(off, asked(paths, Merge()))
    assert pipe.unet._hf_hook is not second


class Moved(nn.Linear):
    """A linear layer whose work a hook takes to another device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.to("meta"), self.weight.to("meta"), self.bias.to("meta"))


def test_factors_follow_the_work_of_the_base() -> None:
    net = nn.ModuleDict({"one": Moved(5, 3)})
    adapter = Adapter("a", {"net.one": Factors(torch.ones(2, 5), torch.ones(3, 2))})
    slot = GateSlot()

    def site(component: str, path: str, module: nn.Module) -> Site:
        return Site(component, path, "image")

    with install({"net": net}, AdapterSet((adapter,)), site, {"net": slot}):
        layer = net["one"]
        assert layer.lora_down.device.type == "cpu"
        with slot.hold(Gate.all([1.0])):
            assert layer(torch.ones(1, 4, 5)).is_meta
        assert layer.lora_down.is_meta and layer.lora_up.is_meta and layer.lora_index.is_meta
        assert set(dict(layer.named_buffers())) == {"lora_down", "lora_up", "lora_index"}


def test_a_base_without_values_gets_factors_with_values() -> None:
    net = nn.ModuleDict({"one": nn.Linear(5, 3, device="meta", dtype=torch.bfloat16)})
    adapter = Adapter("a", {"net.one": Factors(torch.ones(2, 5), torch.ones(3, 2))})
    site = lambda component, path, module: Site(component, path, "image")  # noqa: E731
    with install({"net": net}, AdapterSet((adapter,)), site, {"net": GateSlot()}):
        layer = net["one"]
        assert layer.lora_down.device.type == "cpu" and layer.lora_down.dtype == torch.bfloat16


# --- with a GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def exact() -> Iterator[None]:
    """The same algorithms every time, without TF32."""
    flags = torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with flags:
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


def on_gpu(folder: Path, dtype: str = "fp32", **options: object) -> Composer:
    return Composer.load(
        str(folder),
        device="cuda",
        dtype=dtype,
        options=LoadOptions(**options),
        library=AdapterLibrary(()),
    )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_offload_on_a_gpu_is_bit_equal(folder, paths, method, offload, exact) -> None:
    request = asked(paths, method, seeds=(3, 4))
    with on_gpu(folder) as plain:
        expected = drawn(plain, request)
    with on_gpu(folder, offload=offload) as off:
        assert off.family.device.type == "cuda"
        assert drawn(off, request) == expected
        assert drawn(off, request) == expected  # and again, with the layers still in
        resting = "cpu" if offload == "model" else "meta"
        parts = (off.family.pipe.unet, off.family.pipe.text_encoder, off.family.pipe.vae)
        assert {p.device.type for part in parts for p in part.parameters()} == {resting}
        places = {b.device.type for m in gated(off.family) for b in m.buffers(recurse=False)}
        assert places == ({"cpu"} if offload == "model" else {"cuda"})
    assert not any(isinstance(m, GatedLoraLayer) for m in off.family.denoiser.modules())


@pytest.mark.gpu
@needs_gpu
def test_offload_leaves_the_gpu_to_others(folder, paths) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    with on_gpu(folder, offload="model") as off:
        drawn(off, asked(paths, Merge()))
        weights = sum(p.numel() * p.element_size() for p in off.family.denoiser.parameters())
        assert torch.cuda.memory_allocated() - before < weights


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("quantize", "package", "dtype"),
    [
        ("bnb4", "bitsandbytes", "fp16"),
        ("bnb8", "bitsandbytes", "fp16"),
        ("torchao-int8", "torchao", "bf16"),
    ],
)
@pytest.mark.parametrize("offload", ["none", "model"])
def test_quantised_bases_on_a_gpu(folder, paths, quantize, package, dtype, offload, exact) -> None:
    pytest.importorskip(package)
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    zero = engine.request(paths, [0.0] * 3, Merge(), steps=2)
    with on_gpu(folder, dtype=dtype, quantize=quantize, offload=offload) as composer:
        unet = composer.family.pipe.unet
        linear = unet.get_submodule(path)
        assert composer.family.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        plain = drawn(composer, base())
        assert drawn(composer, zero) == plain  # layers are in, and the base is untouched
        assert drawn(composer, asked(paths, Merge())) != plain
        composer.close()
        assert drawn(composer, base()) == plain
        assert unet.get_submodule(path) is linear


@pytest.mark.gpu
@needs_gpu
def test_what_sequential_offload_cannot_move_is_refused(folder) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(RequestError, match="layer by layer"):
        on_gpu(folder, quantize="torchao-int8", offload="sequential")
