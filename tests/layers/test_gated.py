"""Gated layers against merged weights, and the promise that the base is never touched."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from compose.adapters.adapter import Adapter, AdapterSet, Factors
from compose.errors import AdapterMismatchError, ShapeError
from compose.gate import Gate
from compose.layers import GatedLoraLayer, install
from compose.slot import GateSlot, TokenLayout
from compose.types import Site

LAYOUT = TokenLayout(6, 4)


class Net(nn.Module):
    """Linear on tokens, strided 3x3 and 1x1 convolutions, and a linear on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Module()
        self.block.linear = nn.Linear(5, 7)
        self.conv = nn.Conv2d(5, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(5, 4, 1, bias=False)
        self.vector = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x [rows, 5, 6, 4]."""
        return {
            "block.linear": self.block.linear(x.flatten(2).transpose(1, 2)),
            "conv": self.conv(x),
            "point": self.point(x),
            "vector": self.vector(x.mean(dim=(2, 3))),
        }


SHAPES = {"block.linear": (7, 5), "conv": (6, 5, 3, 3), "point": (4, 5, 1, 1), "vector": (3, 5)}


def site_of(component: str, path: str, module: nn.Module) -> Site:
    kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    return Site(
        component, path, "vector" if path == "vector" else "image", kind, level=int(path == "conv")
    )


def adapter(name: str, rank: int, seed: int, paths: tuple[str, ...] = tuple(SHAPES)) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    return Adapter(
        name,
        {f"net.{p}": Factors(draw(rank, *SHAPES[p][1:]), draw(SHAPES[p][0], rank)) for p in paths},
    )


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def merged(net: Net, adapters: AdapterSet, weights: list[float]) -> Net:
    other = copy.deepcopy(net)
    for a, w in zip(adapters, weights, strict=True):
        for name, factors in a.factors.items():
            module = other.get_submodule(name.removeprefix("net."))
            module.weight.data += w * factors.delta()
    return other


def put(net: Net, adapters: AdapterSet, slot: GateSlot):
    return install({"net": net}, adapters, site_of, {"net": slot})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


TWO = AdapterSet((adapter("a", 3, 1), adapter("b", 5, 2)))


def test_weights_equal_merged_weights_everywhere(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    expected = merged(net, TWO, [0.75, -0.5])(x)
    with put(net, TWO, slot), slot.hold(Gate.all([0.75, -0.5]).expand(2), LAYOUT):
        got = net(x)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-12)


def test_without_gate_and_with_zero_gates_the_base_is_bit_identical(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    before = net(x)
    with put(net, TWO, slot):
        assert same(net(x), before)
        with slot.hold(Gate.off(2).expand(2), LAYOUT):
            assert same(net(x), before)


def test_an_adapter_at_weight_zero_is_skipped_not_multiplied(net: Net, x: Tensor) -> None:
    bad = adapter("bad", 2, 9)
    broken = Adapter("bad", {n: Factors(f.down * torch.inf, f.up) for n, f in bad.factors.items()})
    for order in (
        (TWO.adapters[0], broken, TWO.adapters[1]),
        (broken, *TWO.adapters),
        (*TWO.adapters, broken),
    ):
        adapters, slot = AdapterSet(order), GateSlot()
        weights = [0.0 if a is broken else 0.5 for a in order]
        expected = merged(net, TWO, [0.5, 0.5])(x)
        with put(net, adapters, slot), slot.hold(Gate.all(weights).expand(2), LAYOUT):
            got = net(x)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-12)


def test_a_zero_token_is_bit_identical_to_the_base(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    image = torch.zeros(2, 2, 6, 4)
    image[:, 0, :3] = 1  # adapter a on the upper half, b nowhere
    before = net(x)["block.linear"]
    with put(net, TWO, slot), slot.hold(Gate(torch.ones(2, 2), image=image), LAYOUT):
        got = net(x)["block.linear"]
    alone = merged(net, AdapterSet(TWO.adapters[:1]), [1.0])(x)["block.linear"]
    assert torch.equal(got[:, 12:], before[:, 12:])
    torch.testing.assert_close(got[:, :12], alone[:, :12])


def test_the_change_is_linear_in_the_gate(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    first, second = torch.randn(2, 2, 2).unbind(0)
    image = torch.rand(2, 2, 6, 4)

    def change(weight: Tensor) -> dict[str, Tensor]:
        with slot.hold(Gate(weight, image=image), LAYOUT):
            return {n: y - base[n] for n, y in net(x).items()}

    with put(net, TWO, slot):
        base = net(x)
        both, a, b = change(first + second), change(first), change(second)
    for name in both:
        torch.testing.assert_close(both[name], a[name] + b[name], rtol=1e-6, atol=1e-6)


def test_the_order_of_adapters_does_not_matter(net: Net, x: Tensor) -> None:
    results = []
    image = torch.rand(2, 2, 6, 4)
    for order in ([0, 1], [1, 0]):
        slot, adapters = GateSlot(), AdapterSet(tuple(TWO.adapters[k] for k in order))
        weight = torch.tensor([[0.3, 0.9]])[:, order].expand(2, -1)
        with put(net, adapters, slot), slot.hold(Gate(weight, image=image[:, order]), LAYOUT):
            results.append(net(x))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-12, atol=1e-12)


def test_rows_with_different_gates_are_as_if_alone(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    gate = Gate(torch.tensor([[1.0, 0.0], [0.2, 0.7]]), image=torch.rand(2, 2, 6, 4))
    with put(net, TWO, slot):
        with slot.hold(gate, LAYOUT):
            together = net(x)
        for row in range(2):
            with slot.hold(gate.narrow(row, row + 1), LAYOUT):
                alone = net(x[row : row + 1])
            for name in alone:
                torch.testing.assert_close(
                    together[name][row], alone[name][0], rtol=1e-12, atol=1e-12
                )


def test_a_combiner_that_adds_up_equals_the_sum(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    weight = torch.tensor([[0.5, -1.0]]).expand(2, -1)
    seen = []

    def add(site: Site, base: Tensor, deltas: Tensor) -> Tensor:
        seen.append((site.path, deltas.shape[0]))
        return base + deltas.sum(dim=0)

    with put(net, TWO, slot):
        with slot.hold(Gate(weight), LAYOUT):
            plain = net(x)
        with slot.hold(Gate(weight, combiner=add), LAYOUT):
            combined = net(x)
    assert seen == [(p, 2) for p in SHAPES]
    for name in plain:
        torch.testing.assert_close(plain[name], combined[name], rtol=1e-12, atol=1e-12)


def test_a_rank_router_gates_single_ranks(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    kept = Adapter(  # the first rank of every site alone
        "a1", {n: Factors(f.down[:1], f.up[:, :1]) for n, f in TWO.adapters[0].factors.items()}
    )
    first = torch.tensor([1.0] + [0.0] * 7)
    expected = merged(net, AdapterSet((kept,)), [2.0])(x)
    gate = Gate(
        torch.full((2, 2), 2.0), rank_router=lambda site, x: first.expand(x.shape[0], 1, -1)
    )
    with put(net, TWO, slot), slot.hold(gate, LAYOUT):
        got = net(x)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-12)


def test_eject_leaves_the_very_same_modules_weights_and_keys(net: Net, x: Tensor) -> None:
    modules = dict(net.named_modules())
    state = {k: v.clone() for k, v in net.state_dict().items()}
    before, rng = net(x), random.Random(0)
    for turn in range(100):
        slot = GateSlot()
        names = rng.sample(range(5), rng.randint(1, 3))
        adapters = AdapterSet(tuple(adapter(f"n{k}", 1 + k, k) for k in names))
        gate = Gate(torch.randn(2, len(names)))
        if turn % 10 == 9:
            with pytest.raises(RuntimeError), put(net, adapters, slot), slot.hold(gate, LAYOUT):
                net(x)
                raise RuntimeError
        else:
            with put(net, adapters, slot), slot.hold(gate, LAYOUT):
                net(x)
        assert slot.gate is None
    assert dict(net.named_modules()) == modules
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    assert same(net(x), before)


def test_adapters_need_not_share_sites(net: Net, x: Tensor) -> None:
    adapters = AdapterSet(
        (adapter("a", 2, 1, ("conv",)), adapter("b", 3, 2, ("block.linear", "conv")))
    )
    slot = GateSlot()
    expected = merged(net, adapters, [1.0, 0.5])(x)
    with put(net, adapters, slot), slot.hold(Gate.all([1.0, 0.5]).expand(2), LAYOUT):
        assert isinstance(net.conv, GatedLoraLayer) and not isinstance(net.point, GatedLoraLayer)
        got = net(x)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-12)


def test_a_gated_layer_still_looks_like_its_base(net: Net) -> None:
    weight = net.block.linear.weight
    with put(net, TWO, GateSlot()):
        layer = net.block.linear
        assert layer.weight is weight and layer.in_features == 5 and layer.out_features == 7
        assert net.conv.stride == (2, 2)
        with pytest.raises(AttributeError):
            _ = layer.nothing_of_the_kind


def test_what_cannot_be_installed_is_refused_and_leaves_no_trace(net: Net) -> None:
    modules = dict(net.named_modules())
    good = adapter("a", 2, 1)
    stranger = Adapter("s", {**good.factors, "net.elsewhere": good.factors["net.vector"]})
    with pytest.raises(AdapterMismatchError, match="elsewhere"):
        put(net, AdapterSet((stranger,)), GateSlot())
    wrong = Adapter(
        "w", {**good.factors, "net.vector": Factors(torch.ones(1, 4), torch.ones(3, 1))}
    )
    with pytest.raises(AdapterMismatchError, match=r"\[3, 4\].*\[3, 5\]"):
        put(net, AdapterSet((wrong,)), GateSlot())
    norm = Adapter("n", {"net.block": Factors(torch.ones(1, 4), torch.ones(3, 1))})
    with pytest.raises(AdapterMismatchError, match="is a Module"):
        put(net, AdapterSet((norm,)), GateSlot())
    assert dict(net.named_modules()) == modules
    with put(net, TWO, GateSlot()), pytest.raises(AdapterMismatchError, match="already carries"):
        put(net, TWO, GateSlot())
    assert dict(net.named_modules()) == modules


def test_rows_that_do_not_fit_are_refused(net: Net, x: Tensor) -> None:
    slot = GateSlot()
    with (
        put(net, TWO, slot),
        slot.hold(Gate.all([1.0, 1.0]), LAYOUT),
        pytest.raises(ShapeError, match="1 rows met 2 rows"),
    ):
        net(x)


def test_one_name_for_one_adapter() -> None:
    with pytest.raises(ShapeError, match="more than once"):
        AdapterSet((TWO.adapters[0], TWO.adapters[0]))
