"""The reference kernel against explicit loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compose.errors import ShapeError
from compose.kernels.gated_lora import gated_lora, gated_lora_conv2d

CONV = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


def case(
    rows: int, n: int, d_in: int, d_out: int, ranks: tuple[int, ...], gate_n: int, seed: int = 0
):
    g = torch.Generator().manual_seed(seed)
    total = sum(ranks)
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    index = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
    return (
        draw(rows, n, d_in),
        draw(total, d_in),
        draw(d_out, total),
        draw(rows, gate_n, len(ranks)),
        index,
    )


def loop(x, down, up, gate, index):
    """The docstring's semantics, one number at a time."""
    out = torch.zeros(*x.shape[:2], up.shape[0], dtype=torch.float64)
    for row in range(x.shape[0]):
        for token in range(x.shape[1]):
            g = gate[row if gate.shape[0] > 1 else 0, token if gate.shape[1] > 1 else 0]
            for r in range(down.shape[0]):
                out[row, token] += up[:, r] * g[index[r]] * (x[row, token] @ down[r])
    return out


@pytest.mark.parametrize("ranks", [(4,), (1, 7, 3), (2, 0, 5)])
@pytest.mark.parametrize(("rows", "n", "gate_n"), [(1, 1, 1), (2, 7, 7), (3, 11, 1)])
def test_gated_lora_equals_the_loop(ranks, rows, n, gate_n) -> None:
    args = case(rows, n, 13, 9, ranks, gate_n)
    torch.testing.assert_close(gated_lora(*args), loop(*args), rtol=1e-12, atol=1e-12)


def test_gates_may_run_over_single_ranks() -> None:
    x, down, up, gate, index = case(2, 5, 6, 4, (2, 3), 5)
    by_rank = gate[..., index]
    torch.testing.assert_close(
        gated_lora(x, down, up, by_rank, torch.arange(5)), gated_lora(x, down, up, gate, index)
    )


def test_one_hot_gates_equal_the_single_adapters() -> None:
    x, down, up, _, index = case(3, 5, 6, 4, (2, 3, 1), 1)
    together = gated_lora(x, down, up, torch.eye(3, dtype=torch.float64)[:, None], index)
    for k in range(3):
        mine = index == k
        alone = x[k] @ down[mine].T @ up[:, mine].T
        torch.testing.assert_close(together[k], alone, rtol=1e-12, atol=1e-12)


def test_gradients_of_input_factors_and_gate() -> None:
    x, down, up, gate, index = case(2, 3, 4, 5, (2, 1), 3)
    inputs = [t.requires_grad_() for t in (x, down, up, gate)]
    assert torch.autograd.gradcheck(lambda *a: gated_lora(*a, index), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_rounds_only_once(dtype) -> None:
    x, down, up, gate, index = case(2, 9, 32, 24, (4, 8), 9)
    low = [t.to(dtype) for t in (x, down, up)]
    exact = gated_lora(*(t.double() for t in low), gate, index)
    error = (gated_lora(*low, gate, index).double() - exact).abs().max()
    assert error <= torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (3, 2, 0)]
)
def test_conv_equals_the_sum_of_dense_convolutions(kernel, stride, padding) -> None:
    g = torch.Generator().manual_seed(1)
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    ranks, index = (3, 2), torch.tensor([0, 0, 0, 1, 1])
    x, down, up = draw(2, 4, 7, 10), draw(5, 4, kernel, kernel), draw(6, 5)
    how = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1)}
    h, w = functional.conv2d(x, down, None, stride, padding).shape[-2:]
    gate = draw(2, h * w, 2)
    expected = torch.zeros(2, 6, h, w, dtype=torch.float64)
    start = 0
    for k, r in enumerate(ranks):
        dense = torch.einsum("or,rihw->oihw", up[:, start : start + r], down[start : start + r])
        delta = functional.conv2d(x, dense, None, stride, padding)
        expected += delta * gate[..., k].reshape(2, 1, h, w)
        start += r
    torch.testing.assert_close(gated_lora_conv2d(x, down, up, gate, index, **how), expected)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, down, up, gate, index = case(2, 3, 4, 5, (2, 1), 3)
    with pytest.raises(ShapeError, match="4 features"):
        gated_lora(x, down[:, :3], up, gate, index)
    with pytest.raises(ShapeError, match="expected down"):
        gated_lora(x, down, up[:, :2], gate, index)
    with pytest.raises(ShapeError, match="expected 1 or 12"):
        gated_lora_conv2d(
            torch.zeros(1, 2, 3, 4),
            torch.zeros(1, 2, 3, 3),
            torch.zeros(2, 1),
            torch.zeros(1, 5, 1),
            torch.tensor([0]),
            **CONV,
        )
