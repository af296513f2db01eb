"""Gates: stacking, products, streams and grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.errors import ShapeError
from compose.gate import Gate
from compose.slot import GateSlot, TokenLayout
from compose.types import Site

LAYOUT = TokenLayout(4, 6)
IMAGE = Site("unet", "a", "image", level=0)
TEXT = Site("unet", "b", "text")
JOINT = Site("unet", "c", "joint")
VECTOR = Site("unet", "d", "vector")
CONV = Site("unet", "e", "image", kind="conv", level=1)


def at(gate: Gate, site: Site, tokens: int, layout: TokenLayout = LAYOUT) -> torch.Tensor:
    slot = GateSlot()
    x = torch.zeros(gate.rows, tokens, 3)
    if site.kind == "conv":
        x = torch.zeros(gate.rows, 3, layout.height, layout.width)
    with slot.hold(gate, layout):
        return slot.resolve(site, x)


@st.composite
def gates(draw: st.DrawFn, adapters: int = 2) -> Gate:
    g = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    rows = draw(st.integers(1, 3))
    text = torch.rand(rows, 5, adapters, generator=g) if draw(st.booleans()) else None
    image = torch.rand(rows, adapters, 4, 6, generator=g) if draw(st.booleans()) else None
    factor = torch.rand(adapters, generator=g)
    rule = (lambda site: factor) if draw(st.booleans()) else None
    return Gate(torch.randn(rows, adapters, generator=g), text=text, image=image, site=rule)


SITES = [(IMAGE, 24), (TEXT, 5), (JOINT, 29), (VECTOR, 1), (CONV, 6)]


@settings(max_examples=30, deadline=None)
@given(gates(), gates())
def test_a_stack_is_the_gates_one_after_another(a: Gate, b: Gate) -> None:
    stacked = Gate.stack([a, b])
    for site, tokens in SITES:
        parts = [at(a, site, tokens), at(b, site, tokens)]
        n = max(p.shape[1] for p in parts)
        expected = torch.cat([p.expand(-1, n, -1) for p in parts])
        torch.testing.assert_close(at(stacked, site, tokens).expand(-1, n, -1), expected)


@settings(max_examples=30, deadline=None)
@given(gates())
def test_rows_of_a_gate_are_its_slices(gate: Gate) -> None:
    for site, tokens in SITES:
        whole = at(gate, site, tokens)
        for row in range(gate.rows):
            torch.testing.assert_close(
                at(gate.narrow(row, row + 1), site, tokens), whole[row : row + 1]
            )


@settings(max_examples=30, deadline=None)
@given(gates(), st.integers(0, 100))
def test_the_product_multiplies_at_every_site(a: Gate, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    b = Gate(
        torch.randn(a.rows, 2, generator=g),
        text=torch.rand(a.rows, 5, 2, generator=g),
        image=torch.rand(a.rows, 2, 4, 6, generator=g),
    )
    for site, tokens in SITES[:3]:  # at the full grid: a mean of products is no product of means
        torch.testing.assert_close(
            at(a * b, site, tokens), at(a, site, tokens) * at(b, site, tokens)
        )


def test_ones_change_nothing() -> None:
    plain = Gate.all([0.3, -2.0])
    full = Gate(plain.weight, text=torch.ones(1, 5, 2), image=torch.ones(1, 2, 9, 9))
    for site, tokens in SITES:
        expected = at(plain, site, tokens)
        got = at(full, site, tokens)
        torch.testing.assert_close(got, expected.expand_as(got))


@pytest.mark.parametrize("text_first", [True, False])
def test_a_joint_sequence_joins_text_and_image_in_the_order_of_the_family(text_first: bool) -> None:
    gate = Gate(torch.ones(1, 1), text=torch.rand(1, 5, 1), image=torch.rand(1, 1, 4, 6))
    assert gate.text is not None and gate.image is not None
    image = gate.image.flatten(2).transpose(1, 2)
    parts = [gate.text, image] if text_first else [image, gate.text]
    torch.testing.assert_close(
        at(gate, JOINT, 29, TokenLayout(4, 6, text_first)), torch.cat(parts, dim=1)
    )


def test_a_vector_site_gets_the_mean_of_the_mask() -> None:
    image = torch.zeros(1, 1, 4, 6)
    image[..., :3] = 1
    assert at(Gate(torch.full((1, 1), 2.0), image=image), VECTOR, 1).item() == 1.0


def test_grids_round_up_and_keep_height_before_width() -> None:
    layout = TokenLayout(5, 9)
    assert [layout.grid(level) for level in range(3)] == [(5, 9), (3, 5), (2, 3)]
    image = torch.zeros(1, 1, 5, 9)
    image[..., 0, :] = 1  # top row only
    top = at(Gate(torch.ones(1, 1), image=image), Site("unet", "x", "image", level=1), 15, layout)
    assert (top[0, :5, 0] > 0).all() and (top[0, 5:, 0] == 0).all()


def test_a_router_sees_the_input_and_multiplies() -> None:
    gate = Gate(torch.ones(2, 2), router=lambda site, x: x.sum(-1, keepdim=True).expand(-1, -1, 2))
    slot = GateSlot()
    x = torch.rand(2, 5, 3)
    with slot.hold(gate, LAYOUT):
        torch.testing.assert_close(slot.resolve(TEXT, x)[..., 1], x.sum(-1))


def test_active_adapters_are_those_with_a_weight_somewhere() -> None:
    assert Gate(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1e-9]])).active == (1, 2)
    assert Gate.off(3).active == ()


def test_the_slot_is_restored_after_an_exception_and_nests() -> None:
    slot = GateSlot()
    outer, inner = Gate.all([1.0]), Gate.all([2.0])
    with pytest.raises(RuntimeError), slot.hold(outer), slot.hold(inner):
        raise RuntimeError
    assert slot.gate is None
    with slot.hold(outer):
        with slot.hold(inner):
            assert slot.gate is inner
        assert slot.gate is outer


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Gate(torch.ones(2)), "expected \\[rows, K\\]"),
        (lambda: Gate(torch.ones(1, 2), text=torch.ones(1, 5, 3)), "text gate"),
        (lambda: Gate(torch.ones(1, 2), image=torch.ones(2, 2, 4, 4)), "image gate"),
        (lambda: Gate.all([1.0, 2.0]).narrow(0, 1).expand(3).expand(2), "cannot serve 2"),
        (lambda: Gate.stack([Gate.all([1.0]), Gate.all([1.0, 2.0])]), "cannot be stacked"),
        (lambda: at(Gate(torch.ones(1, 1), text=torch.ones(1, 5, 1)), TEXT, 6), "5 tokens met 6"),
        (
            lambda: at(Gate(torch.ones(1, 1), image=torch.ones(1, 1, 4, 6)), IMAGE, 25),
            "met 25 tokens",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        build()
