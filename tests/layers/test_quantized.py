"""Gated layers over bases whose weights are packed: what they add, and what they never look at.

The packed layer below stands for bitsandbytes' Linear4bit, diffusers' GGUFLinear and their like, so
that the rules hold where none of these is installed; the real ones follow.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.adapters.adapter import Adapter, AdapterSet, Factors
from compose.adapters.resolve import ModuleShape, module_shapes
from compose.device import compute_dtype
from compose.gate import Gate
from compose.kernels.gated_lora import gated_lora
from compose.layers import GatedLoraLayer, install
from compose.slot import GateSlot
from compose.types import Site

D_IN, D_OUT = 64, 32


class Sealed(nn.Parameter):
    """Packed bytes. Any computation with them but the layer's own fails."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.__name__ in ("__get__", "as_subclass"):  # shape, dtype, device; the layer's own
            return super().__torch_function__(func, types, args, kwargs or {})
        raise AssertionError(f"the packed weight was read by {func}")


class PackedLinear(nn.Linear):
    """Two 4-bit codes a byte with one scale, [d_out * d_in / 2, 1] as bitsandbytes stores them."""

    def __init__(self, d_in: int, d_out: int, dtype: torch.dtype | None, bias: bool = True) -> None:
        super().__init__(d_in, d_out, bias=bias)
        self.compute_dtype = dtype
        codes = torch.randint(0, 256, (d_in * d_out // 2, 1), dtype=torch.uint8)
        self.weight = Sealed(codes, requires_grad=False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        codes = self.weight.data.as_subclass(Tensor)
        halves = torch.cat([codes & 15, codes >> 4], dim=1).to(x.dtype)
        weight = (halves.reshape(self.out_features, self.in_features) - 7.5) / 30
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, weight, bias)


def factors(name: str, rank: int, seed: int) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    pair = Factors(torch.randn(rank, D_IN, generator=g), torch.randn(D_OUT, rank, generator=g))
    return Adapter(name, {"net.one": pair})


TWO = AdapterSet((factors("a", 3, 1), factors("b", 5, 2)))
WEIGHTS = torch.tensor([[0.75, -0.5], [0.2, 1.0]])


def site(component: str, path: str, module: nn.Module) -> Site:
    return Site(component, path, "image")


def check_exact(base: nn.Module, dtype: torch.dtype, factor_dtype: torch.dtype) -> None:
    """The layer gives the base's own output plus the low-rank products, bit for bit."""
    net = nn.ModuleDict({"one": base})
    x = torch.randn(2, 7, D_IN, dtype=dtype, generator=torch.Generator().manual_seed(3))
    assert module_shapes(net) == {"one": ModuleShape("linear", (D_OUT, D_IN))}
    alone, slot = base(x), GateSlot()
    stacked = TWO.stacked("net.one")
    down, up = stacked.down.to(factor_dtype), stacked.up.to(factor_dtype)
    delta = gated_lora(x, down, up, WEIGHTS[:, None], stacked.index)
    with install({"net": net}, TWO, site, {"net": slot}):
        layer: Any = net["one"]
        assert isinstance(layer, GatedLoraLayer)
        assert layer.lora_down.dtype == layer.lora_up.dtype == factor_dtype
        assert torch.equal(layer(x), alone)
        with slot.hold(Gate(WEIGHTS)):
            got = layer(x)
        with slot.hold(Gate(torch.zeros(2, 2))):
            assert torch.equal(layer(x), alone)
    assert net["one"] is base
    assert got.dtype == alone.dtype
    assert torch.equal(got, alone + delta.to(alone.dtype)) and not torch.equal(got, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_base_is_called_and_its_weight_never_read(dtype: torch.dtype) -> None:
    base = PackedLinear(D_IN, D_OUT, dtype)
    check_exact(base, dtype, dtype)
    assert base.calls == 4  # once for every call of the layer, and once alone


def test_the_stand_in_notices_a_reader() -> None:
    with pytest.raises(AssertionError, match="was read"):
        PackedLinear(D_IN, D_OUT, None).weight.float()


@pytest.mark.parametrize(
    ("stated", "bias", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.bfloat16),  # Linear4bit, GGUFLinear
        (None, torch.float16, torch.float16),  # Linear8bitLt: no word of it, a bias
        (None, None, torch.float32),  # nothing to go by
    ],
)
def test_the_dtype_of_work_is_found(stated, bias, expected) -> None:
    base = PackedLinear(D_IN, D_OUT, stated, bias=bias is not None)
    if bias is not None:
        base.bias.data = base.bias.data.to(bias)
    assert compute_dtype(base) == expected
    with install({"net": nn.ModuleDict({"one": base})}, TWO, site, {"net": GateSlot()}) as put:
        layer = put.layers["net.one"]
        assert layer.lora_down.dtype == layer.lora_up.dtype == expected


def test_weights_stored_in_eight_bit_floats_are_no_dtype_of_work() -> None:
    base = nn.Linear(D_IN, D_OUT, bias=False)
    base.weight.data = base.weight.data.to(torch.float8_e4m3fn)
    assert compute_dtype(base) == torch.float32
    model = nn.Sequential(base, nn.LayerNorm(D_OUT, dtype=torch.bfloat16))
    assert compute_dtype(model) == torch.bfloat16


def test_the_output_keeps_the_dtype_of_the_base() -> None:
    """GGUFLinear and others may answer in another dtype than they were asked in."""

    class Narrow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to(torch.bfloat16)

    check_exact(Narrow(D_IN, D_OUT), torch.float32, torch.float32)


# --- the real ones, where they are installed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitsandbytes_four_bits(dtype: torch.dtype) -> None:
    nn_bnb = pytest.importorskip("bitsandbytes").nn
    base = nn_bnb.Linear4bit(D_IN, D_OUT, compute_dtype=dtype, quant_type="nf4").to("cpu")
    assert base.weight.dtype == torch.uint8 and tuple(base.weight.shape) != (D_OUT, D_IN)
    check_exact(base, dtype, dtype)


def test_bitsandbytes_eight_bits() -> None:
    nn_bnb = pytest.importorskip("bitsandbytes").nn
    base = nn_bnb.Linear8bitLt(D_IN, D_OUT, has_fp16_weights=False).to("cpu", torch.float16)
    assert base.weight.dtype == torch.int8
    check_exact(base, torch.float16, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchao_eight_bits(dtype: torch.dtype) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    base = nn.Linear(D_IN, D_OUT, dtype=dtype)
    quantization.quantize_(base, quantization.Int8WeightOnlyConfig())
    assert type(base) is nn.Linear and "torchao" in type(base.weight).__module__
    check_exact(base, dtype, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gguf(dtype: torch.dtype) -> None:
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quants.quantize(torch.randn(D_OUT, D_IN).numpy(), kind)
    base = GGUFLinear(D_IN, D_OUT, bias=True, compute_dtype=dtype)
    base.weight = GGUFParameter(torch.from_numpy(packed), quant_type=kind)
    base.bias = nn.Parameter(base.bias.to(dtype), requires_grad=False)
    assert base.weight.dtype == torch.uint8
    check_exact(base, dtype, dtype)
