"""Columns of a softmax against the whole softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compose.attention.columns import columns

SCALE = 0.3


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [2, 3, 7, 5] and keys [2, 3, 11, 5], and positions [2, 4]."""
    torch.manual_seed(0)
    query, key = (2 * torch.randn(2, 3, n, 5, dtype=torch.float64) for n in (7, 11))
    positions = torch.tensor([[0, 10, 3, 3], [5, 2, 9, 0]])
    return query.to(dtype), key.to(dtype), positions


def whole(query: Tensor, key: Tensor, positions: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """The same columns of a softmax that exists in full, [2, 3, 7, 4]."""
    found = (SCALE * query @ key.transpose(-1, -2) + bias).softmax(-1)
    return torch.stack([f[..., p] for f, p in zip(found, positions, strict=True)])


@pytest.mark.parametrize("at_once", [1, 2 * 3 * 11, 2 * 3 * 11 * 3, 2**24])
def test_chunks_of_queries_give_the_same_numbers(at_once) -> None:
    given = tensors()
    got = columns(*given, scale=SCALE, heads=True, at_once=at_once)
    assert torch.allclose(got, whole(*given), rtol=1e-12)
    mean = columns(*given, scale=SCALE, at_once=at_once)
    assert torch.allclose(mean, whole(*given).mean(1, keepdim=True), rtol=1e-12)


def test_no_more_logits_than_allowed_exist_at_one_time() -> None:
    from torch.overrides import TorchFunctionMode

    largest = 0

    class Sizes(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[-1:] == (11,) and out.shape[-2] != 5:
                largest = max(largest, out.numel())
            return out

    with Sizes():
        columns(*tensors(), scale=SCALE, at_once=2 * 3 * 11 * 2)
    assert largest == 2 * 3 * 11 * 2


@pytest.mark.parametrize("shape", [(2, 3, 7, 11), (2, 1, 1, 11), (1, 1, 7, 11), (1, 1, 1, 11)])
def test_masks_are_part_of_the_softmax(shape) -> None:
    query, key, positions = tensors()
    torch.manual_seed(1)
    bias = torch.randn(shape, dtype=torch.float64)
    for at_once in (66, 2**24):
        got = columns(query, key, positions, scale=SCALE, mask=bias, heads=True, at_once=at_once)
        assert torch.allclose(got, whole(query, key, positions, bias), rtol=1e-12)
    allowed = bias > -0.5
    allowed[..., 4] = True
    got = columns(query, key, positions, scale=SCALE, mask=allowed, heads=True)
    logits = torch.zeros_like(bias).masked_fill(~allowed, -torch.inf)
    assert torch.allclose(got, whole(query, key, positions, logits), rtol=1e-12)
    banned = ~allowed.expand(2, 3, 7, 11)
    hit = torch.stack([b[..., p] for b, p in zip(banned, positions, strict=True)])
    assert hit.any() and (got[hit] == 0).all()


def test_logits_are_those_that_the_softmax_gets() -> None:
    query, key, positions = tensors()
    bias = torch.randn(1, 1, 7, 11, dtype=torch.float64)
    got = columns(query, key, positions, scale=SCALE, mask=bias, kind="logits", heads=True)
    logits = SCALE * query @ key.transpose(-1, -2) + bias
    expected = torch.stack([f[..., p] for f, p in zip(logits, positions, strict=True)])
    assert torch.allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype) -> None:
    query, key, positions = tensors(dtype)
    got = columns(query, key, positions, scale=SCALE, heads=True)
    assert got.dtype == torch.float32
    exact = whole(query.double(), key.double(), positions)
    assert (got - exact).abs().max() < 1e-6


def test_gradients_are_those_of_the_whole_softmax_chunk_by_chunk() -> None:
    query, key, positions = tensors()
    weight = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    bias = torch.randn(2, 1, 7, 11, dtype=torch.float64)
    grads = []
    for at_once in (66, 2**24, None):
        q, k = query.clone().requires_grad_(), key.clone().requires_grad_()
        if at_once is None:
            out = whole(q, k, positions, bias)
        else:
            out = columns(q, k, positions, scale=SCALE, mask=bias, heads=True, at_once=at_once)
        grads.append(torch.autograd.grad((out * weight).sum(), (q, k)))
    for got in grads[:2]:
        for ours, theirs in zip(got, grads[2], strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_there_is_no_graph_where_none_is_wanted() -> None:
    query, key, positions = tensors()
    query.requires_grad_()
    with torch.no_grad():
        assert not columns(query, key, positions, scale=SCALE).requires_grad
    assert not columns(query.detach(), key, positions, scale=SCALE).requires_grad
