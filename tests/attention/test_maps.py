"""Maps from captured columns, on numbers made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from compose.attention.capture import LayerCapture
from compose.attention.maps import averaged, resized, smoothed, stretched, token_maps
from compose.errors import ShapeError
from compose.types import AttentionSite

SITE = AttentionSite("a", "text")


def layer(grid: tuple[int, int], values: Tensor) -> LayerCapture:
    return LayerCapture(SITE, grid, values)


def test_columns_become_maps_on_their_grid() -> None:
    """Two heads, a grid of 2 x 3, two tokens; height and width do not get mixed up."""
    values = torch.arange(24.0).view(1, 2, 6, 2)
    maps = token_maps(layer((2, 3), values))
    assert maps.shape == (1, 2, 2, 3)
    assert maps[0, 0].tolist() == [[6.0, 8.0, 10.0], [12.0, 14.0, 16.0]]
    assert maps[0, 1].tolist() == [[7.0, 9.0, 11.0], [13.0, 15.0, 17.0]]


def test_layers_are_averaged_on_the_finest_grid() -> None:
    fine = layer((2, 4), torch.arange(8.0).view(1, 1, 8, 1))
    coarse = layer((1, 2), torch.tensor([10.0, 20.0]).view(1, 1, 2, 1))
    maps = averaged([coarse, fine])
    up = [10.0, 12.5, 17.5, 20.0]  # bilinear between cell centres
    assert torch.allclose(maps[0, 0], (torch.arange(8.0).view(2, 4) + torch.tensor([up, up])) / 2)
    assert averaged([coarse, fine], (1, 2)).shape == (1, 1, 1, 2)
    assert torch.equal(averaged([fine]), token_maps(fine))


def test_maps_are_stretched_one_by_one_and_constants_are_no_nan() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]]])
    got = stretched(maps)
    assert torch.allclose(got[0], torch.tensor([[0.0, 0.5], [0.25, 1.0]]), atol=1e-6)
    assert got[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_smoothing_is_a_gaussian_of_three_mirrored_at_the_border() -> None:
    a = math.exp(-0.5 / 0.5**2)
    edge, middle = a / (1 + 2 * a), 1 / (1 + 2 * a)
    maps = torch.zeros(2, 1, 3, 4, dtype=torch.float64)
    maps[1, 0, 0, 1] = 1
    got = smoothed(maps)
    assert got[0].abs().max() == 0
    # Row -1 mirrors row 1 and column -1 mirrors column 1.
    rows = torch.tensor([middle, edge, 0.0], dtype=torch.float64)
    columns = torch.tensor([2 * edge, middle, edge, 0.0], dtype=torch.float64)
    assert torch.allclose(got[1, 0], rows[:, None] * columns[None, :])
    constant = torch.full((1, 2, 3, 4), 0.7)
    assert torch.allclose(smoothed(constant, sigma=2.0), constant)
    with pytest.raises(ShapeError, match="1 x 4"):
        smoothed(torch.zeros(1, 1, 1, 4))


def test_resizing() -> None:
    maps = torch.tensor([[[[0.0, 1.0]]]])
    assert resized(maps, (1, 4), "nearest").flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert resized(maps, (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resized(maps, (1, 1), "area").item() == 0.5
    assert resized(maps, (1, 2)) is maps


def test_everything_can_be_differentiated() -> None:
    values = torch.rand(1, 2, 6, 2, dtype=torch.float64, requires_grad=True)

    def maps(values: Tensor) -> Tensor:
        both = [layer((2, 3), values), layer((3, 2), values)]
        return stretched(smoothed(averaged(both)))

    assert torch.autograd.gradcheck(maps, (values,))
