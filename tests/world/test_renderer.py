"""The renderer: the same scene gives the same picture, and every word is seen in it."""

from __future__ import annotations

import itertools
import pickle
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compose.errors import ShapeError
from compose.world.drawing.schedule import schedule
from compose.world.renderer import Table, object_masks, pack, render, render_table, worn_shares
from compose.world.sampling import sample_scene
from compose.world.scene import Scene, Thing
from compose.world.vocabulary import (
    ACCESSORIES,
    ANIMALS,
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    SPECIES,
    STYLES,
)

PAIR_SCALE = 0.5


def scenes(count: int, words: str = "all") -> list[Scene]:
    rng = random.Random(7)
    return [sample_scene(rng, words=words) for _ in range(count)]  # type: ignore[arg-type]


def alone(thing: Thing, background: str = "room") -> Scene:
    return Scene((replace(thing, x=0.5, y=0.64, size=PAIR_SCALE),), background=background)


def apart(pictures: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute difference of all pairs over the things' pixels, [n, n], diagonal infinite."""
    area = masks.any(0)
    seen = pictures[:, :, area].flatten(1)
    return torch.cdist(seen, seen, p=1) / seen.shape[1] + torch.diag(
        torch.full((len(seen),), torch.inf)
    )


def test_a_scene_always_gives_the_same_picture_and_stays_in_range() -> None:
    drawn = scenes(12)
    first, again = render(drawn), render(drawn)
    assert torch.equal(first, again)
    assert first.shape == (12, 3, 128, 128)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    drawn = scenes(10)
    single = torch.cat([render([scene]) for scene in drawn])
    assert torch.allclose(render(drawn), single, atol=2e-5)


def test_packing_slicing_joining_and_pickling_lose_nothing() -> None:
    drawn = scenes(9)
    table = pickle.loads(pickle.dumps(pack(drawn)))
    whole = render_table(table, "cpu")
    assert torch.equal(whole, render(drawn))
    assert torch.equal(whole[3:7], render_table(table[3:7]))
    joined = Table.join([pack(drawn[:4]), pack(drawn[4:])])
    assert len(joined) == 9
    assert torch.equal(joined.rows, table.rows)
    assert torch.equal(render_table(joined), whole)
    with pytest.raises(ValueError, match="step 1"):
        table[::2]


def test_drawing_order_keeps_every_scene_in_order() -> None:
    table = pack(scenes(20))
    plan = schedule(table.rows, table.counts)
    assert sorted(plan.order.tolist()) == list(range(len(table.rows)))
    call = torch.empty(len(table.rows), dtype=torch.long)
    for number, span in enumerate(plan.spans):
        rows = plan.order[span.start : span.stop]
        call[rows] = number
        assert set(table.rows[rows, 0].tolist()) == {float(span.kind)}
    for part in call.split(table.counts.tolist()):
        assert bool((part.diff() > 0).all())


def test_an_empty_scene_is_its_background() -> None:
    rng = random.Random(1)
    scene = sample_scene(rng)
    empty = replace(scene, things=())
    assert not object_masks([empty]).any()
    far = object_masks([scene]).any(1)[0]
    difference = (render([scene]) - render([empty])).abs().amax(1)[0]
    assert float(difference[far].mean()) > 0.1


@pytest.mark.parametrize("background", ["meadow", "night"])
def test_masks_agree_with_the_picture(background: str) -> None:
    drawn = [replace(scene, background=background, style="plain") for scene in scenes(12)]
    masks = object_masks(drawn)
    assert int(masks.sum(1).max()) == 1  # no pixel belongs to two things
    for scene, mask in zip(drawn, masks, strict=True):
        assert [bool(m.any()) for m in mask] == [i < len(scene.things) for i in range(3)]
        full = render([scene])
        for index in range(len(scene.things)):
            rest = replace(scene, things=tuple(t for i, t in enumerate(scene.things) if i != index))
            change = (full - render([rest])).abs().amax(1)[0]
            around = torch.nn.functional.max_pool2d(mask[index][None].float(), 7, 1, 3)[0] > 0
            assert float(change[~around].max()) < 0.3  # only the shadow
            assert float((change[mask[index]] > 0.04).float().mean()) > 0.85


def test_what_is_worn_is_where_taking_it_off_changes_the_picture() -> None:
    drawn = [s for s in scenes(140) if s.style == "plain" and s.background not in ("night", "moon")]
    bare = [
        replace(
            s, things=tuple(replace(t, accessory="none", accessory_colour=None) for t in s.things)
        )
        for s in drawn
    ]
    shares = worn_shares(pack(drawn))
    change = (render(drawn) - render(bare)).abs().amax(1)
    dressed = torch.tensor([any(t.accessory != "none" for t in s.things) for s in drawn])
    assert 10 < int(dressed.sum()) < len(drawn)
    assert not shares[~dressed].any() and bool((shares[dressed] > 0.9).flatten(1).any(1).all())
    antenna = torch.tensor([any(t.species in ("robot", "bird") for t in s.things) for s in drawn])
    assert float(change[~antenna][shares[~antenna] == 0].max()) < 1e-6  # hats hide antennas
    assert float((change[shares > 0.9] > 0.04).float().mean()) > 0.9
    assert not worn_shares(pack(bare)).any()


def test_masks_refuse_a_crowd() -> None:
    with pytest.raises(ShapeError, match="4 things"):
        object_masks([Scene(tuple(Thing("cat", "red") for _ in range(4)))])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mirrored_thing_is_the_mirror_image(pattern: str) -> None:
    second = None if pattern == "plain" else "yellow"
    things = [
        Thing(
            species, "purple", pattern, second, "scarf" if species in ANIMALS else "none",
            "green" if species in ANIMALS else None, 0.4, 0.6, 0.6, False, 5.0, 0.3,
        )
        for species in SPECIES
    ]  # fmt: skip
    there = [Scene((thing,), background="snow") for thing in things]
    # the main colour of a split thing is the one on the left, so its mirror image has them swapped
    swapped = {"colour": "yellow", "second": "purple"} if pattern == "split" else {}
    back = [
        Scene((replace(thing, x=0.6, flip=True, tilt=-5.0, **swapped),), background="snow")
        for thing in things
    ]
    masks = object_masks(there)[:, 0]
    mirrored = object_masks(back)[:, 0].flip(-1)
    assert int((masks ^ mirrored).sum()) <= 2 * len(things)
    change = (render(there) - render(back).flip(-1)).abs().amax(1)
    assert float(change[masks & mirrored].mean()) < 2e-3


def test_a_thing_lies_where_the_scene_says() -> None:
    drawn = [
        Scene((Thing("ball", "red", x=x, y=y, size=0.4),)) for x, y in ((0.3, 0.4), (0.7, 0.6))
    ]
    for scene, mask in zip(drawn, object_masks(drawn)[:, 0], strict=True):
        rows, columns = mask.nonzero().float().T / 128
        assert float(columns.mean()) == pytest.approx(scene.things[0].x, abs=0.02)
        assert float(rows.mean()) == pytest.approx(scene.things[0].y, abs=0.04)
        assert float(rows.max() - rows.min()) == pytest.approx(0.4 * 0.88, abs=0.03)


@pytest.mark.parametrize("species", ["cat", "robot", "car", "tree"])
def test_colours_are_told_apart(species: str) -> None:
    drawn = [alone(Thing(species, colour)) for colour in COLOURS]
    assert float(apart(render(drawn), object_masks(drawn)[:, 0]).min()) > 0.035


@pytest.mark.parametrize("species", SPECIES)
def test_patterns_are_told_apart(species: str) -> None:
    drawn = [alone(Thing(species, "teal", p, None if p == "plain" else "white")) for p in PATTERNS]
    assert float(apart(render(drawn), object_masks(drawn)[:, 0]).min()) > 0.03


@pytest.mark.parametrize("species", ANIMALS)
def test_accessories_are_told_apart(species: str) -> None:
    drawn = [
        alone(Thing(species, "gray", accessory=kind, accessory_colour="red"))
        for kind in ACCESSORIES
    ]
    assert float(apart(render(drawn), object_masks(drawn)[:, 0]).min()) > 0.02


def test_species_are_told_apart_by_their_outline() -> None:
    masks = object_masks([alone(Thing(species, "gray")) for species in SPECIES])[:, 0]
    for one, other in itertools.combinations(masks, 2):
        assert int((one ^ other).sum()) > 0.1 * int((one | other).sum())


def test_backgrounds_differ_more_from_each_other_than_their_seeds_do() -> None:
    drawn = [Scene(background=b, light=s / 3, detail=s) for b in BACKGROUNDS for s in range(4)]
    pictures = torch.nn.functional.avg_pool2d(render(drawn), 8).flatten(1)
    distances = (torch.cdist(pictures, pictures, p=1) / pictures.shape[1]).view(8, 4, 8, 4)
    within = torch.stack([distances[b, :, b] for b in range(8)])
    between = distances.mean((1, 3)) + torch.eye(8) * 9
    assert float(between.min()) > 1.3 * float(within.mean((1, 2)).max())
    assert float(within[:, 0, 1:].min()) > 0.008  # and yet every seed looks different


def test_styles_change_the_whole_picture() -> None:
    for scene in scenes(4, "base"):
        drawn = render([replace(scene, style=style) for style in STYLES])
        for one, other in itertools.combinations(drawn, 2):
            assert float((one - other).abs().mean()) > 0.045


def test_a_sticker_has_a_white_rim() -> None:
    scene = alone(Thing("bear", "brown"), "meadow")
    mask = object_masks([scene])[:, 0].float()
    near, far = (torch.nn.functional.max_pool2d(mask, k, 1, k // 2)[0] > 0 for k in (3, 5))
    rim = far & ~near
    assert float(render([replace(scene, style="sticker")])[0][:, rim].mean()) > 0.9
    assert float(render([scene])[0][:, rim].mean()) < 0.8


def test_blueprint_is_blue_and_sunwash_is_warm() -> None:
    red, green, blue = render([replace(s, style="blueprint") for s in scenes(6)]).mean((0, 2, 3))
    assert blue > green > red
    red, green, blue = render([replace(s, style="sunwash") for s in scenes(6)]).mean((0, 2, 3))
    assert red > green > blue


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_nothing_blends_with_its_background(background: str) -> None:
    """The outline of a thing differs from what lies right outside it, whatever its colour."""
    drawn = [alone(Thing("bear", colour), background) for colour in COLOURS]
    masks = object_masks(drawn)[:, :1].float()
    outside = (torch.nn.functional.max_pool2d(masks, 5, 1, 2) - masks)[:, 0] > 0
    inside = (masks + torch.nn.functional.max_pool2d(-masks, 5, 1, 2))[:, 0] > 0
    pictures = render(drawn)
    for picture, out, into in zip(pictures, outside, inside, strict=True):
        assert float((picture[:, out].mean(1) - picture[:, into].mean(1)).abs().max()) > 0.15


@pytest.mark.parametrize("species", SPECIES)
def test_the_main_colour_covers_most_of_the_body(species: str) -> None:
    scene = alone(Thing(species, "purple"))
    seen = render([scene])[0][:, object_masks([scene])[0, 0]].T
    target = torch.tensor(COLOURS["purple"]) / 255
    share = float(((seen - target).abs().amax(1) < 0.12).float().mean())
    assert share > (0.25 if species == "cake" else 0.33)


@pytest.mark.parametrize("species", ANIMALS)
def test_poses_move_an_animal(species: str) -> None:
    masks = object_masks([alone(Thing(species, "red", pose=pose)) for pose in (0.1, 0.35, 0.85)])
    for one, other in itertools.combinations(masks[:, 0], 2):
        assert int((one ^ other).sum()) > 60


def test_eyes_are_big_enough_to_survive() -> None:
    """White of the eyes of a character in a pair: at least 26 pixels beside the pupils."""
    for species in ANIMALS:
        scene = alone(Thing(species, "blue"))
        head = render([scene])[0][:, : int(0.72 * 128)]
        white = (head.amin(0) > 0.93) & object_masks([scene])[0, 0, : int(0.72 * 128)]
        assert int(white.sum()) >= 26


def test_colour_codes_are_drawn_as_given() -> None:
    word = alone(Thing("car", "teal", "striped", "white"))
    code = "#{:02x}{:02x}{:02x}".format(*COLOURS["teal"])
    assert torch.equal(render([word]), render([alone(Thing("car", code, "striped", "white"))]))
