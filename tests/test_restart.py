"""Noise that is put where it belongs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compose.regions.restart import restarted

HEIGHT, WIDTH = 8, 12


def noise(images: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(4)
    return 3 * torch.randn(images, 4, HEIGHT, WIDTH, generator=source, dtype=torch.float64) + 1


def box(top: int, left: int, height: int = 4, width: int = 4) -> Tensor:
    place = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    place[top : top + height, left : left + width] = True
    return place


def peak(row: int, column: int, images: int = 1) -> Tensor:
    """A map of 4 x 6 that shows one cell, which is 2 x 2 of the latents."""
    found = torch.zeros(images, 4, 6)
    found[:, row, column] = 1
    return found


def spread(row: int, column: int) -> Tensor:
    """Two by two cells of a map: 4 x 4 of the latents."""
    return torch.stack([peak(row + i, column + j) for i in (0, 1) for j in (0, 1)]).sum(0)


def test_a_box_gets_the_noise_of_the_best_place_up_to_mean_and_deviation() -> None:
    z = noise()
    out = restarted(z, [spread(0, 4)], box(4, 2)[None])
    assert not torch.equal(out, z)
    moved = z.clone()
    moved[..., 4:8, 2:6] = z[..., 0:4, 8:12]
    expected = (moved - moved.mean()) / moved.std() * z.std() + z.mean()
    torch.testing.assert_close(out, expected)


def test_mean_and_deviation_of_every_image_stay() -> None:
    z = noise(3)
    maps = torch.cat([spread(0, 4), spread(2, 0), spread(1, 1)])
    out = restarted(z, [maps], box(4, 2)[None])
    for a, b in zip(out, z, strict=True):
        torch.testing.assert_close(a.mean(), b.mean())
        torch.testing.assert_close(a.std(), b.std())


def test_a_box_that_lies_best_stays_as_it_is() -> None:
    z = noise()
    torch.testing.assert_close(restarted(z, [spread(2, 1)], box(4, 2)[None]), z)


def test_of_equal_places_the_own_one_stays_and_else_the_first_is_taken() -> None:
    """A box smaller than a cell fits many places of it; a map that shows nothing moves nothing."""
    z = noise()
    torch.testing.assert_close(restarted(z, [torch.zeros(1, 4, 6)], box(3, 3)[None]), z)
    torch.testing.assert_close(restarted(z, [peak(1, 1)], box(3, 3, 1, 1)[None]), z)
    out = restarted(z, [peak(1, 4)], box(7, 11, 1, 1)[None])
    moved = z.clone()
    moved[..., 7, 11] = z[..., 2, 8]
    torch.testing.assert_close((out - out.mean()) / out.std(), (moved - moved.mean()) / moved.std())


def test_a_mask_is_slid_as_it_is_and_changes_its_own_cells_alone() -> None:
    """An L of three cells suits a map with an L, not one with a block beside it."""
    z = noise()
    shape = box(4, 4, 2, 2)
    shape[4, 5] = False
    maps = torch.zeros(1, HEIGHT, WIDTH)
    maps[0, 0, 8] = maps[0, 1, 8] = maps[0, 1, 9] = 1
    maps[0, 6, 1] = maps[0, 6, 2] = 1.2
    out = restarted(z, [maps], shape[None])
    moved = z.clone()
    for y, x in ((4, 4), (5, 4), (5, 5)):
        moved[..., y, x] = z[..., y - 4, x + 4]
    torch.testing.assert_close((out - out.mean()) / out.std(), (moved - moved.mean()) / moved.std())


def test_every_image_is_as_if_it_were_alone() -> None:
    z, places = noise(2), torch.stack([box(4, 2), box(0, 7)])
    maps = [torch.cat([spread(0, 4), spread(2, 3)]), torch.cat([spread(1, 0), spread(2, 4)])]
    both = restarted(z, maps, places)
    for i in range(2):
        alone = restarted(z[i : i + 1], [m[i : i + 1] for m in maps], places)
        torch.testing.assert_close(both[i : i + 1], alone)


@pytest.mark.parametrize("left", [2, 8])
def test_the_order_of_regions_makes_no_difference(left: int) -> None:
    """Also where they overlap: there the one that is shown more has its way."""
    z, places = noise(), torch.stack([box(2, 0), box(3, left)])
    maps = [spread(0, 4), 2 * spread(2, 1)]
    one = restarted(z, maps, places)
    assert torch.equal(one, restarted(z, maps[::-1], places.flip(0)))
    moved = z.clone()
    moved[..., 2:6, 0:4] = z[..., 0:4, 8:12]
    moved[..., 3:7, left : left + 4] = z[..., 4:8, 2:6]
    torch.testing.assert_close((one - one.mean()) / one.std(), (moved - moved.mean()) / moved.std())


def test_the_latents_given_stay_as_they_are_and_half_precision_stays_half() -> None:
    z = noise().half()
    before = z.clone()
    out = restarted(z, [spread(0, 4)], box(4, 2)[None])
    assert torch.equal(z, before) and out.dtype == torch.float16
    torch.testing.assert_close(out.float().std(), z.float().std(), rtol=1e-3, atol=0)
