"""Losses on maps, against examples worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from compose.attention.losses import bell, missing, straying, unfilled

BOX = torch.tensor(
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool
)
MAP = torch.tensor(
    [
        [0.9, 0.9, 0.9, 0.9, 0.9],
        [0.1, 0.5, 0.6, 0.2, 0.8],
        [0.0, 0.1, 0.3, 0.4, 0.7],
        [0.2, 0.2, 0.2, 0.2, 0.2],
    ],
    dtype=torch.float64,
)
EDGE = math.exp(-0.5)
"""Of a bell of spread 1 at the end of a line of three."""


def drawn(maps: Tensor, box: Tensor = BOX) -> tuple[Tensor, Tensor]:
    return maps[None, None], box[None]


def test_a_bell_lies_on_its_box() -> None:
    """Two rows lie at either end of the height, so that both are equally far from the middle."""
    row = torch.tensor([0, EDGE, 1, EDGE, 0])
    expected = torch.stack([0 * row, row, row, 0 * row])
    torch.testing.assert_close(bell(BOX[None])[0], expected)
    wide = bell(BOX[None], spread=2.0)[0, 1]
    torch.testing.assert_close(wide[1:4], torch.tensor([math.exp(-0.125), 1, math.exp(-0.125)]))


@pytest.mark.parametrize("rows", [slice(1, 2), slice(0, 4)])
def test_a_bell_of_one_column_is_one_in_its_middle(rows: slice) -> None:
    box = torch.zeros(4, 5, dtype=torch.bool)
    box[rows, 2] = True
    found = bell(box[None])[0]
    assert (
        found.max() == 1 and (found[:, 2] > 0).equal(box[:, 2]) and found[:, [0, 1, 3]].max() == 0
    )


def test_the_strongest_cells_in_the_box() -> None:
    """In the box A * G is .5e .6 .2e / .1e .3 .4e with e = exp(-1/2); what is outside is more."""
    maps, boxes = drawn(MAP)
    torch.testing.assert_close(missing(maps, boxes, top=0.2), torch.tensor([[1 - 0.6]]).double())
    two = (0.6 + 0.5 * EDGE) / 2
    torch.testing.assert_close(missing(maps, boxes, top=0.34), torch.tensor([[1 - two]]).double())
    every = (0.9 + 1.2 * EDGE) / 6
    torch.testing.assert_close(missing(maps, boxes, top=1.0), torch.tensor([[1 - every]]).double())


def test_a_share_below_one_cell_is_one_cell() -> None:
    maps, boxes = drawn(MAP)
    assert torch.equal(missing(maps, boxes, top=0.01), missing(maps, boxes, top=0.2))


def test_peaks_from_edge_to_edge() -> None:
    """Columns peak at .5 .6 .4 in the box, rows at .6 .4; outside nothing is wanted or there."""
    maps, boxes = drawn(MAP)
    columns = (0.5 + 0.4 + 0.6) / 5
    rows = (0.4 + 0.6) / 4
    torch.testing.assert_close(unfilled(maps, boxes), torch.tensor([[columns + rows]]).double())


def test_attention_that_strays() -> None:
    """A box of one cell of 2 x 2 and one of two; the strongest pairs to what is outside."""
    attention = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.4],
            [0.5, 0.2, 0.2, 0.1],
            [0.3, 0.3, 0.3, 0.1],
            [0.0, 0.9, 0.1, 0.0],
        ],
        dtype=torch.float64,
    )[None]
    boxes = torch.tensor(
        [[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 1], [1, 1]]], dtype=torch.bool
    )  # pairs to the outside: .2 .3 .4; .3 .4 .2 .1; none
    for top, expected in ((0.5, [0.4, 0.4, 0.0]), (1.0, [0.4, (0.4 + 0.3) / 2, 0.0])):
        got = straying(attention, boxes, top=top)
        torch.testing.assert_close(got, torch.tensor([expected]).double())


def test_a_perfect_map_loses_nothing() -> None:
    maps, boxes = drawn(BOX.double())
    assert missing(maps, boxes, top=0.34).item() == 0  # the two cells in the middle
    assert unfilled(maps, boxes).item() == 0
    inside = BOX.flatten()
    block = (inside[:, None] == inside[None, :]).double()
    assert straying((block / block.sum(1, keepdim=True))[None], boxes).item() == 0


def test_what_is_no_rectangle_counts_as_the_one_around_it() -> None:
    ragged = BOX.clone()
    ragged[1, 1] = ragged[2, 2] = False
    maps, boxes = drawn(MAP)
    attention = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(missing(maps, ragged[None]), missing(maps, boxes))
    assert torch.equal(unfilled(maps, ragged[None]), unfilled(maps, boxes))
    assert torch.equal(straying(attention, ragged[None]), straying(attention, boxes))


def test_maps_and_images_do_not_mix() -> None:
    """Two images, three maps with a box each: every number as if it were alone."""
    source = torch.Generator().manual_seed(2)
    maps = torch.rand(2, 3, 4, 5, generator=source, dtype=torch.float64)
    attention = torch.rand(2, 20, 20, generator=source, dtype=torch.float64)
    boxes = torch.stack([BOX, BOX.roll(1, 1), torch.ones_like(BOX)])
    few, gaps, away = missing(maps, boxes), unfilled(maps, boxes), straying(attention, boxes)
    assert few.shape == gaps.shape == away.shape == (2, 3)
    for i in range(2):
        for p in range(3):
            one = maps[i : i + 1, p : p + 1], boxes[p : p + 1]
            torch.testing.assert_close(few[i, p], missing(*one)[0, 0])
            torch.testing.assert_close(gaps[i, p], unfilled(*one)[0, 0])
            torch.testing.assert_close(away[i, p], straying(attention[i : i + 1], one[1])[0, 0])


def test_mirrored_maps_and_boxes_lose_the_same() -> None:
    """Height and width exchanged, or left and right: nothing takes one for the other."""
    maps, boxes = drawn(MAP)
    for turned in (lambda x: x.flip(-1), lambda x: x.transpose(-1, -2)):
        torch.testing.assert_close(missing(turned(maps), turned(boxes)), missing(maps, boxes))
        torch.testing.assert_close(bell(turned(boxes)), turned(bell(boxes)))
    torch.testing.assert_close(unfilled(maps.flip(-1), boxes.flip(-1)), unfilled(maps, boxes))


def test_gradients_are_those_of_finite_differences() -> None:
    source = torch.Generator().manual_seed(3)
    maps = torch.rand(2, 2, 4, 5, generator=source, dtype=torch.float64, requires_grad=True)
    attention = torch.rand(2, 20, 20, generator=source, dtype=torch.float64, requires_grad=True)
    boxes = torch.stack([BOX, BOX.roll(1, 0)])
    assert torch.autograd.gradcheck(lambda m: missing(m, boxes, top=0.4), maps)
    assert torch.autograd.gradcheck(lambda m: unfilled(m, boxes), maps)
    assert torch.autograd.gradcheck(lambda a: straying(a, boxes, top=0.5), attention)
