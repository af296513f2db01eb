"""Regions: boxes and masks on the grids of every family, and what several of them come to."""

from __future__ import annotations

import base64
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from compose.errors import RequestError
from compose.models.detect import family_of
from compose.models.family import Family
from compose.regions import OVERLAPS, Box, Mask, drawn, feathered, region_from_json, shared
from compose.request import MAX_MASKS, AdapterUse, Request, placed
from compose.slot import resample
from compose.types import Size
from tests.families import FAMILIES

LEFT = Box(0, 0, 0.5, 1)
SIZES = (Size(80, 48), Size(56, 104), Size(16, 72))
"""Not square, and with odd grids at deeper levels of a UNet."""


def grey(rows: list[list[int]]) -> Mask:
    return Mask(len(rows[0]), len(rows), bytes(v for row in rows for v in row))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    edges = st.floats(0, 1).map(lambda v: round(v, 4))
    (x0, x1), (y0, y1) = (
        sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True))) for _ in range(2)
    )
    return Box(x0, y0, x1, y1)


grids = st.tuples(st.integers(1, 20), st.integers(1, 20))


def test_a_box_covers_cells_by_area() -> None:
    expected = [[0.5, 1, 0.5, 0], [0.25, 0.5, 0.25, 0]]
    assert Box(0.125, 0, 0.625, 0.75).on((2, 4)).tolist() == expected


@given(boxes(), grids)
def test_the_area_of_a_box_is_kept_at_any_resolution(box: Box, grid: tuple[int, int]) -> None:
    cover = box.on(grid)
    assert float(cover.mean()) == pytest.approx((box.x1 - box.x0) * (box.y1 - box.y0), abs=1e-12)
    assert cover.min() >= 0 and cover.max() <= 1 + 1e-12


@given(boxes(), grids)
def test_mirroring_a_box_mirrors_its_cells(box: Box, grid: tuple[int, int]) -> None:
    cover = box.on(grid)
    across = Box(1 - box.x1, box.y0, 1 - box.x0, box.y1).on(grid)
    turned = Box(box.y0, box.x0, box.y1, box.x1).on(grid[::-1])
    torch.testing.assert_close(across, cover.flip(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(turned, cover.T, rtol=0, atol=0)


@given(st.integers(1, 9), st.integers(1, 9), grids, st.integers(0, 99))
def test_a_mask_keeps_its_mean_up_and_down(
    width: int, height: int, grid: tuple[int, int], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(1, 256, width * height, dtype=np.uint8)
    mask = Mask(width, height, pixels.tobytes())
    assert float(mask.on(grid).mean()) == pytest.approx(pixels.mean() / 255, abs=1e-12)


@given(st.integers(0, 11), st.integers(1, 12), st.integers(0, 6), st.integers(1, 7), grids)
def test_a_mask_of_a_box_is_the_box(x: int, w: int, y: int, h: int, grid: tuple[int, int]) -> None:
    right, bottom = min(x + w, 12), min(y + h, 7)
    pixels = np.zeros((7, 12), np.uint8)
    pixels[y:bottom, x:right] = 255
    box = Box(x / 12, y / 7, right / 12, bottom / 7)
    got = Mask(12, 7, pixels.tobytes()).on(grid)
    torch.testing.assert_close(got, box.on(grid), rtol=0, atol=1e-9)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return family_of(FAMILIES[request.param].build())


def site_grids(family: Family, size: Size) -> list[tuple[int, int]]:
    """Of all places of the denoiser that have one."""
    layout = family.layout(torch.zeros(1, 1, *family.grid(size)))
    sites = (
        family.site(family.denoiser_name, path, module)
        for path, module in family.denoiser.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    )
    return sorted({layout.grid(site.level) for site in sites})


def wider(box: Box, grid: tuple[int, int]) -> Box:
    """By a cell on every side."""
    y, x = 1 / grid[0], 1 / grid[1]
    low, high = (max(box.x0 - x, 0), max(box.y0 - y, 0)), (min(box.x1 + x, 1), min(box.y1 + y, 1))
    return Box(*low, *high)


@pytest.mark.parametrize("size", SIZES, ids=str)
@settings(max_examples=40, deadline=None)
@example(box=Box(0, 0, 0.0001, 0.0001))
@given(box=boxes())
def test_a_box_keeps_a_whole_cell_at_every_site(family: Family, size: Size, box: Box) -> None:
    latents = family.grid(size)
    masks = drawn([box], latents)
    for grid in (latents, *site_grids(family, size)):
        cells = resample(masks, grid)[0]
        assert cells.max() == 1 and cells.min() >= 0
        assert (cells[wider(box, latents).on(grid) == 0] == 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_full_region_is_one_at_every_site(family: Family, size: Size) -> None:
    height, width = family.grid(size)
    white = Mask(3 * width, 3 * height, b"\xff" * (9 * width * height))
    masks = drawn([Box(0, 0, 1, 1), white, None], (height, width))
    for made in (masks, feathered(masks, 0.2)):
        for grid in site_grids(family, size):
            assert torch.equal(resample(made, grid), torch.ones(3, *grid))


def test_only_the_strongest_cells_are_raised() -> None:
    thin = torch.zeros(8, 8)
    thin[3, 2:6] = 1
    cells = resample(thin[None], (2, 2))[0]
    assert cells.tolist() == [[1, 1], [0, 0]]  # of 2 / 16 each
    assert resample(torch.zeros(1, 8, 8), (2, 2)).abs().max() == 0
    spot = torch.full((1, 8, 8), 0.5)
    spot[0, 0, 0] = 1
    assert resample(spot, (2, 2))[0].tolist() == [[1, 0.5], [0.5, 0.5]]


def test_a_soft_edge_is_a_gaussian_and_keeps_the_middle() -> None:
    (soft,) = feathered(drawn([LEFT], (40, 80)), 0.05)  # two cells
    row = soft[20]
    torch.testing.assert_close(soft, row.expand(40, 80), rtol=0, atol=1e-6)
    ahead = torch.arange(80) + 0.5 - 40
    expected = 0.5 - 0.5 * torch.erf(ahead / (2 * 2**0.5))
    torch.testing.assert_close(row, expected, rtol=0, atol=0.02)
    assert torch.equal(feathered(drawn([LEFT], (4, 8)), 0.0), drawn([LEFT], (4, 8)))


A = torch.tensor([1.0, 1.0, 0.5, 0.0])
B = torch.tensor([0.0, 1.0, 1.0, 0.25])


@pytest.mark.parametrize(
    ("overlap", "first", "second"),
    [
        ("average", [1, 0.5, 1 / 3, 0], [0, 0.5, 2 / 3, 0.25]),
        ("sum", A.tolist(), B.tolist()),
        ("first", A.tolist(), [0, 0, 0.5, 0.25]),
        ("partition", [1, 1, 0, 0], [0, 0, 1, 0.25]),
    ],
)
def test_where_regions_overlap(overlap: str, first: list[float], second: list[float]) -> None:
    got = shared(torch.stack([A, B])[:, None], overlap)[:, 0]
    torch.testing.assert_close(got, torch.tensor([first, second], dtype=torch.float32))


@given(st.integers(0, 99), st.sampled_from(sorted(OVERLAPS)))
def test_overlaps_stay_within_their_regions(seed: int, overlap: str) -> None:
    masks = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    masks[masks < 0.3] = 0
    got = shared(masks, overlap)
    assert (got >= 0).all() and (got <= masks + 1e-6).all()
    if overlap != "sum":
        assert got.sum(dim=0).max() <= 1 + 1e-6
    alone = shared(masks[:1], overlap)
    assert torch.equal(alone, masks[:1])


def test_regions_survive_json() -> None:
    pixels = bytes(np.random.default_rng(0).integers(0, 256, 35, dtype=np.uint8))
    for region in (Box(0.1, 0.25, 1 / 3, 0.7), Mask(5, 7, pixels)):
        data = json.loads(json.dumps(region.to_json()))
        again = region_from_json(data)
        assert again == region and again.to_json() == data


def test_a_large_soft_mask_is_small_in_json() -> None:
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    disc = np.clip((0.7 - np.hypot(x, y)) * 20, 0, 1)
    mask = Mask(512, 512, np.rint(255 * disc).astype(np.uint8).tobytes())
    assert len(json.dumps(mask.to_json())) < 32_000


def png(tmp_path: Path, image: Image.Image) -> Path:
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


VALUES = np.array([[0, 128, 255], [1, 254, 7]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_masks_are_read_without_loss(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(VALUES).convert(mode)
    assert Mask.read(png(tmp_path, image)) == Mask(3, 2, VALUES.tobytes())


def test_masks_of_one_bit_and_of_sixteen(tmp_path: Path) -> None:
    bits = Image.fromarray(VALUES > 100)
    assert Mask.read(png(tmp_path, bits)).pixels == bytes([0, 255, 255, 0, 255, 0])
    deep = Image.fromarray(VALUES.astype(np.uint16) * 257)
    assert Mask.read(png(tmp_path, deep)).pixels == VALUES.tobytes()


def test_what_is_transparent_is_outside(tmp_path: Path) -> None:
    rgba = np.full((1, 3, 4), 255, np.uint8)
    rgba[0, :, 3] = (0, 51, 255)
    rgba[0, 0, :3] = (200, 0, 0)  # nobody sees this red
    assert Mask.read(png(tmp_path, Image.fromarray(rgba))).pixels == bytes([0, 51, 255])


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="in colour"):
        Mask.read(png(tmp_path, Image.new("RGB", (4, 4), (255, 0, 0))))
    with pytest.raises(RequestError, match=r"mask.png: a mask is black all over"):
        Mask.read(png(tmp_path, Image.new("L", (4, 4))))
    with pytest.raises(RequestError, match="5000x1 pixels"):
        Mask.read(png(tmp_path, Image.new("L", (5000, 1), 255)))
    with pytest.raises(RequestError, match="No such file"):
        Mask.read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    cut = png(tmp_path, Image.new("L", (64, 64), 255)).read_bytes()[:60]
    (tmp_path / "cut.png").write_bytes(cut)
    photo = io.BytesIO()
    Image.new("L", (4, 4), 255).save(photo, "JPEG")
    (tmp_path / "photo.png").write_bytes(photo.getvalue())
    for name in ("text.png", "cut.png", "photo.png"):
        with pytest.raises(RequestError, match=f"{name} cannot be read as a mask"):
            Mask.read(tmp_path / name)


@pytest.mark.parametrize(
    "edges", [(0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (0, -0.1, 1, 1), (0, 0, 1.1, 1), (0, 0, 1, 1e400)]
)
def test_an_empty_box_or_one_outside_the_picture_is_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(RequestError, match="is no box; expected"):
        Box(*edges)
    with pytest.raises(RequestError, match="is no box"):
        Box(0, float("nan"), 1, 1)


def test_a_mask_of_another_aspect_is_refused_and_rounding_is_not() -> None:
    (cells,) = drawn([grey([[255, 0], [0, 0]])], (64, 64))
    assert cells[:32, :32].min() == 1
    with pytest.raises(RequestError, match=r"width is 1.5 times its height.*such as 3x2"):
        drawn([grey([[255] * 5, [0] * 5])], (64, 96))
    nearly = Mask(151, 100, bytes([255]) * 15100)
    assert drawn([nearly], (64, 96)).min() == 1


def asked(*uses: AdapterUse) -> Request:
    return Request("a mochi cat", adapters=uses)


def test_requests_with_regions_and_bound_words_survive_json() -> None:
    request = asked(
        AdapterUse("a", 0.5, region=LEFT, trigger="mochi cat"),
        AdapterUse("b", region=grey([[0, 7, 255]])),
        AdapterUse("c"),
    )
    data = json.loads(json.dumps(request.to_json()))
    assert Request.from_json(data) == request and hash(request)
    assert request.regions == {"a": LEFT, "b": grey([[0, 7, 255]])}
    assert data["adapters"][2] == {"name": "c", "weight": 1.0, "text_weight": None}


def packed(width: int, height: int, pixels: bytes) -> dict[str, object]:
    text = base64.b64encode(zlib.compress(pixels)).decode()
    return {"mask": {"width": width, "height": height, "zlib": text}}


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ({"box": [0, 0, 2, 1]}, "is no box"),
        ({"box": [0, 0, 1]}, "could not be read"),
        ({"box": "left"}, "could not be read"),
        ({"circle": [0, 0, 1]}, "could not be read"),
        ("left", "could not be read"),
        (packed(2, 2, b"\xff" * 3), "3 values"),
        (packed(2, 2, b"\xff" * 2**24), "5 values"),  # a bomb is opened that far and no further
        (packed(2, 2, b"\0" * 4), "black all over"),
        (packed(-2, -2, b"\xff" * 4), "-2x-2"),
        (packed(2**40, 2**40, b"\xff" * 4), "1099511627776x"),
        ({"mask": {"width": 1, "height": 1, "zlib": "!"}}, "cannot be unpacked"),
        ({"mask": {"width": 1, "height": 1, "zlib": "AAAA"}}, "cannot be unpacked"),
    ],
)
def test_broken_regions_in_a_recipe_are_refused(region: object, says: str) -> None:
    data = asked(AdapterUse("a")).to_json()
    data["adapters"][0]["region"] = region
    with pytest.raises(RequestError, match=says):
        Request.from_json(data)


def test_masks_that_do_not_fit_into_a_picture_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, MAX_MASKS * 2 // 3), dtype=np.uint8)
    side = 256
    one, two = (Mask(side, len(n) // side, n[: len(n) // side * side].tobytes()) for n in noise)
    asked(AdapterUse("a", region=one), AdapterUse("b", region=LEFT))
    with pytest.raises(RequestError, match=r"341 KiB when packed.*at most 256 KiB"):
        asked(AdapterUse("a", region=one), AdapterUse("b", region=two))


def test_regions_are_given_by_name() -> None:
    uses = (AdapterUse("a"), AdapterUse("b", region=LEFT), AdapterUse("b"))
    top = Box(0, 0, 1, 0.5)
    assert placed(uses, {"a": top}) == (replace(uses[0], region=top), *uses[1:])
    with pytest.raises(RequestError, match="'c', which is no adapter"):
        placed(uses, {"c": top})


def test_bound_words_must_be_in_the_prompt() -> None:
    assert asked(AdapterUse("a", trigger="Mochi  cat")).adapters[0].trigger == "Mochi  cat"
    with pytest.raises(RequestError, match="adapter a is bound to 'ember', which is not in the"):
        asked(AdapterUse("a", trigger="ember"))
