"""Masks on numbers made by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compose.attention import masks


def grid(*rows: str) -> Tensor:
    """A mask [1, 1, H, W] drawn with # and dots."""
    return torch.tensor([[c == "#" for c in row] for row in rows])[None, None]


def test_cells_belong_to_a_mask_that_covers_half_of_them() -> None:
    drawn = grid("####..", "####..", "###...", "###...")
    assert torch.equal(masks.on_grid(drawn, (2, 3)), grid("##.", "##."))
    assert torch.equal(masks.on_grid(drawn, (4, 6)), drawn)
    assert torch.equal(masks.on_grid(grid("#.", ".."), (2, 4)), grid("##..", "...."))


def test_a_small_mask_keeps_the_cell_that_it_covers_most() -> None:
    small = torch.zeros(1, 1, 64, 64)
    small[..., 15:18, 40:43] = 1  # one row in the upper cells, two in the lower
    found = masks.on_grid(small, (4, 4))
    assert found.sum() == 1 and found[0, 0, 1, 2]
    assert not masks.on_grid(torch.zeros(1, 1, 64, 64), (4, 4)).any()


@given(
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    to=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    corner=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
)
def test_no_mask_with_anything_in_it_is_lost(side, to, corner) -> None:
    drawn = torch.zeros(1, 2, *side)
    drawn[0, 0, int(corner[0] * side[0]), int(corner[1] * side[1])] = 1
    found = masks.on_grid(drawn, to)
    assert found[0, 0].any() and not found[0, 1].any()


def test_thresholds_are_relative_to_each_map() -> None:
    maps = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[1.0, 4.0], [2.0, 3.0]]])
    assert masks.above(maps, 0.5).tolist() == [
        [[False, False], [True, True]],
        [[False, True], [False, True]],
    ]
    assert not masks.above(torch.zeros(2, 2), 0.3).any()


def test_unions() -> None:
    parts = torch.cat([grid("#..."), grid(".#.."), grid("...#")], dim=1)
    got = masks.union(parts, ((0, 2), (), (1,)))
    assert torch.equal(got, torch.cat([grid("#..#"), grid("...."), grid(".#..")], dim=1))


def test_a_partition_gives_every_place_to_the_largest() -> None:
    maps = torch.tensor([[[[0.1, 0.5, 0.3]], [[0.2, 0.4, 0.3]], [[0.0, 0.9, 0.1]]]])
    found = masks.partition(maps)
    assert found.int().tolist() == [[[[0, 0, 1]], [[1, 0, 0]], [[0, 1, 0]]]]
    assert (found.sum(1) == 1).all()


def test_opening_takes_specks_away_and_closing_fills_holes() -> None:
    speck = grid("......", ".###..", ".###..", ".###.#", "......")
    assert torch.equal(masks.opened(speck), grid("......", ".###..", ".###..", ".###..", "......"))
    hole = grid(*("." * 9,) * 2, "..#####..", "..##.##..", "..#####..", *("." * 9,) * 2)
    full = grid(*("." * 9,) * 2, *("..#####..",) * 3, *("." * 9,) * 2)
    assert torch.equal(masks.closed(hole), full)
    assert not masks.opened(hole).any()  # not the other way round
    corner = grid("#...", "....", "....")
    assert torch.equal(masks.closed(corner), corner)
    assert torch.equal(masks.closed(grid("..#.", "..#.")), grid("..##", "..##"))  # to the border


def test_growing_and_shrinking() -> None:
    point = grid(".....", "..#..", ".....", ".....")
    assert torch.equal(masks.dilate(point), grid(".###.", ".###.", ".###.", "....."))
    assert torch.equal(masks.erode(masks.dilate(point)), grid("..#..", "..#..", ".....", "....."))
    assert torch.equal(masks.dilate(point, 5), grid("#####", "#####", "#####", "#####"))
    assert masks.erode(torch.ones(1, 1, 3, 4, dtype=torch.bool)).all()  # the border stays
    soft = torch.tensor([[[[0.0, 0.5, 0.2]]]])
    assert torch.equal(masks.dilate(soft), torch.tensor([[[[0.5, 0.5, 0.5]]]]))
    assert torch.equal(masks.erode(soft), torch.tensor([[[[0.0, 0.0, 0.2]]]]))


def test_the_background_gets_what_nobody_covers() -> None:
    both = torch.cat([grid("#.....", "......"), grid(".##...", "......")], dim=1)
    filled = masks.with_background(both)
    assert torch.equal(filled, torch.cat([grid("#..###", "######"), both[:, 1:]], dim=1))
    assert (filled.any(1)).all()
    assert torch.equal(both[:, :1], grid("#.....", "......"))  # what was given stays as it is
    soft = torch.tensor([[[[0.5, 0.0]], [[0.0, 0.0]]]])
    assert masks.with_background(soft, 1).tolist() == [[[[0.5, 0.0]], [[0.0, 1.0]]]]


def test_the_smallest_rectangle_around_a_mask() -> None:
    drawn = grid("......", "..#.#.", "......", "...#..")
    assert torch.equal(masks.bounding(drawn), grid("......", "..###.", "..###.", "..###."))
    both = torch.cat([grid("......", "......", "......", "#....."), torch.zeros_like(drawn)])
    assert torch.equal(masks.bounding(both), both)
