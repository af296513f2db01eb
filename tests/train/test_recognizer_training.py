"""Labels, damage, losses and loop of the recognizer, against geometry and formulas by hand."""

from __future__ import annotations

import argparse
import dataclasses
import json

import pytest
import torch

from compose.errors import ModelError, RequestError
from compose.train import recognizer_damage
from compose.train import recognizer_data as data
from compose.train.common import RunDir
from compose.train.recognizer import Settings, add_arguments, train_recognizer
from compose.train.recognizer_check import calibrate
from compose.train.recognizer_damage import Damage, damage
from compose.train.recognizer_data import IGNORE, Labels, draw_scenes, label
from compose.train.recognizer_loop import Trainer, optimise
from compose.train.recognizer_loss import contrast, focal, peak_target
from compose.train.recognizer_vae import Coder
from compose.world.reading import read
from compose.world.recognizer import GRID, THING_HEADS
from compose.world.renderer import render
from compose.world.scene import Scene, Thing
from compose.world.score import score

HEADS = list(THING_HEADS)
CLEAN = Damage(0, 0, 0, 0, 0, 0)
CPU = torch.device("cpu")


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def word(labels: Labels, slot: int, head: str) -> str | None:
    index = int(labels.words[0, slot, HEADS.index(head)])
    return None if index == IGNORE else THING_HEADS[head][index]


def test_labels_say_what_the_scene_says():
    robot = Thing("robot", "lime", "heart", "navy", "cape", "red", 0.3, 0.6, 0.5)
    made = label([Scene((robot, Thing("ball", "red", "striped", x=0.7)), "moon", "sunwash")])
    assert [word(made, 0, head) for head in HEADS] == [
        "robot",
        "lime",
        "heart",
        "navy",
        "cape",
        "red",
    ]
    assert word(made, 1, "second") is None  # the renderer picks it
    assert word(made, 1, "accessory_colour") == "none"
    assert made.present.tolist() == [[True, True, False]]
    torch.testing.assert_close(made.boxes[0, 0], torch.tensor([0.3, 0.6, 0.5]))


def test_no_colour_is_taught_from_a_blueprint():
    made = label([Scene((Thing("cat", "teal", "split", "gold"),), style="blueprint")])
    assert [word(made, 0, head) for head in HEADS] == ["cat", None, "split", None, "none", None]


def test_neighbouring_scenes_share_a_character():
    made = label(draw_scenes(400, 0))
    pairs = made.present.any(1).view(-1, 2).all(1)
    shared = [
        bool(set(made.identity[2 * i][made.present[2 * i]].tolist())
             & set(made.identity[2 * i + 1][made.present[2 * i + 1]].tolist()))
        for i in pairs.nonzero().flatten().tolist()
    ]  # fmt: skip
    assert sum(shared) / len(shared) > 0.95  # a double in odd places may replace it
    assert (
        not made.present.all(1).all() and (~made.present.any(1)).any()
    )  # counts vary, some are empty
    assert draw_scenes(10, 5) == draw_scenes(10, 5) != draw_scenes(10, 6)


def spot(x: float, y: float) -> torch.Tensor:
    """[3, 128, 128] black with a soft white spot."""
    line = (torch.arange(128) + 0.5) / 128
    return (-((line - x).square() + (line[:, None] - y).square()) / 2e-3).exp().expand(3, -1, -1)


def test_moved_boxes_lie_where_the_picture_moved():
    n = 16
    images = torch.stack([spot(0.3 + 0.02 * i, 0.55) for i in range(n)])
    truth = label(
        [Scene((Thing("cat", "red", x=0.3 + 0.02 * i, y=0.55, size=0.4),)) for i in range(n)]
    )
    moved, after = damage(images, truth, Damage(0.1, 0.15, 0, 0, 0, 0), chance())
    weight = moved[:, 0] / moved[:, 0].sum((1, 2), keepdim=True)
    line = (torch.arange(128) + 0.5) / 128
    seen = torch.stack([(weight * line).sum((1, 2)), (weight * line[:, None]).sum((1, 2))], 1)
    torch.testing.assert_close(after.boxes[:, 0, :2], seen, atol=4e-3, rtol=0)
    assert (after.boxes[:, 0, 0] - truth.boxes[:, 0, 0]).abs().max() > 0.02  # moved, not mirrored
    spread = (weight * (line - seen[:, :1, None]).square()).sum((1, 2)).sqrt()
    scale = after.boxes[:, 0, 2] / 0.4
    torch.testing.assert_close(spread, spread.mean() / scale.mean() * scale, atol=1.5e-3, rtol=0)


def test_no_damage_changes_nothing():
    """Not even mirrored: which half of a split figure is its main colour has to stay known."""
    images = torch.rand(8, 3, 128, 128)
    truth = label(draw_scenes(8, 1))
    same, after = damage(images, truth, CLEAN, chance())
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)
    torch.testing.assert_close(after.boxes[:, :3], truth.boxes)
    assert after.present[:, 3:].sum() == 0 and torch.equal(after.present[:, :3], truth.present)


def test_cut_pictures_keep_only_whole_things(monkeypatch):
    scenes = [
        Scene((Thing("cat", "red", x=0.25, size=0.4),)),
        Scene((Thing("dog", "blue", x=0.75, size=0.4),)),
    ]
    images, truth = torch.rand(2, 3, 128, 128), label(scenes)
    mixed, after = recognizer_damage._cut_together(images, truth, 1.0, chance())
    keep = ((mixed - images.flip(0)) / (images - images.flip(0)))[:, 0].nan_to_num(0.5)  # the mask
    for i in range(2):
        for slot, (source, share) in enumerate(((i, keep[i]), (1 - i, 1 - keep[i]))):
            x = int(truth.boxes[source, 0, 0] * 128)
            body = (
                share[61:98, x - 18 : x + 18].clamp(0, 1).mean()
            )  # 0.8 of the height across, y 0.62
            place = (i, 3 * slot)
            assert bool(after.present[place]) == bool(body > 0.9) or abs(body - 0.9) < 0.04
            assert not (after.present[place] and after.unsure[place])
    assert (after.picture == IGNORE).all()


def test_peak_target_is_one_at_the_centre_and_blind_around_halves():
    truth = label(
        [
            Scene(
                (
                    Thing("cat", "red", x=0.30, y=0.62, size=0.5),
                    Thing("dog", "red", x=0.8, y=0.62, size=0.4),
                )
            )
        ]
    )
    truth.present[0, 1], truth.unsure[0, 1] = False, True
    target, taught = peak_target(truth)
    row, column = int(0.62 * GRID), int(0.30 * GRID)
    assert target[0, row, column] == 1 and (target == 1).sum() == 1
    wanted = torch.tensor(-1 / (2 * (0.075 * 0.5 * GRID) ** 2)).exp()
    torch.testing.assert_close(target[0, row, column + 1], wanted)
    assert taught[0, row, column] and not taught[0, row, int(0.8 * GRID)]


def test_focal_loss_on_two_cells():
    logits, target = torch.tensor([[[0.4, -1.0]]]), torch.tensor([[[1.0, 0.5]]])
    p, q = torch.tensor(0.4).sigmoid(), torch.tensor(-1.0).sigmoid()
    wanted = -((1 - p) ** 2 * p.log() + 0.5**4 * q**2 * (1 - q).log())
    torch.testing.assert_close(focal(logits, target, torch.ones(1, 1, 2, dtype=torch.bool)), wanted)
    only = torch.tensor([[[True, False]]])
    torch.testing.assert_close(focal(logits, target, only), -((1 - p) ** 2 * p.log()))


def test_contrast_on_three_directions():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    loss = contrast(torch.stack([a, a, b]), torch.tensor([7, 7, 8]))
    wanted = -(torch.tensor(10.0) - torch.tensor([10.0, 0.0]).logsumexp(0))
    torch.testing.assert_close(loss, wanted)
    assert contrast(torch.stack([a, b]), torch.tensor([1, 2])) == 0
    assert contrast(torch.zeros(0, 2), torch.zeros(0)) == 0


def test_calibration_finds_a_known_temperature():
    logits = torch.randn(20000, 5, generator=chance())
    right = torch.multinomial(logits.softmax(1), 1, generator=chance())[:, 0]
    right[:500] = IGNORE
    found = calibrate(
        {"sure": (logits * 2, right), "unknown": (logits, torch.full_like(right, IGNORE))}
    )
    assert found["sure"] == pytest.approx(2.0, rel=0.06) and found["unknown"] == 1.0


def test_a_handful_is_learned_by_heart():
    torch.manual_seed(0)
    scenes = [scene for scene in draw_scenes(30, 3) if len(scene.things) == 2][:2]
    pictures, truth = (render(scenes) * 255).round().to(torch.uint8), label(scenes)
    trainer = Trainer(Settings(rate=3e-3, warmup=5, damage=CLEAN), CPU)
    for i in range(40):
        trainer.learn(pictures, truth, i / 40)
    readings = read(trainer.network, pictures.float() / 255)
    verdicts = [score(reading, scene) for reading, scene in zip(readings, scenes, strict=True)]
    assert [verdict.all_right for verdict in verdicts] == [True, True]


def test_a_resumed_training_goes_on_bit_by_bit(tmp_path):
    pictures, truth = data.make_pictures(2, 0, CPU)
    torch.manual_seed(0)
    one = Trainer(Settings(), CPU)
    one.learn(pictures, truth, 0.0)
    one.save(tmp_path / "checkpoint.safetensors", seconds=12.5)
    one.learn(pictures, truth, 0.5)
    two = Trainer(Settings(), CPU)
    assert two.resume(tmp_path / "none.pt") == 0.0
    assert two.resume(tmp_path / "checkpoint.safetensors") == 12.5
    two.learn(pictures, truth, 0.5)
    assert two.step == one.step == 2
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(two.network.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    for first, second in zip(one.ema.values, two.ema.values, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


def test_a_finished_budget_trains_no_further(tmp_path):
    pictures, truth = data.make_pictures(2, 0, CPU)
    settings = Settings(minutes=0, steps=1, batch=2)
    first = optimise(settings, RunDir(tmp_path), pictures, truth)
    again = optimise(settings, RunDir(tmp_path), pictures, truth)
    torch.testing.assert_close(again.state_dict(), first.state_dict())


def test_the_whole_stage_writes_a_recognizer(tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = "--scenes 8 --batch 4 --steps 1 --minutes 0 --check 2 --workers 0 --device cpu --out"
    from compose.train.recognizer import run

    path = run(parser.parse_args([*options.split(), str(tmp_path)]))
    assert (
        path == tmp_path / "recognizer" / "recognizer.safetensors"
        and path.stat().st_size <= 4_000_000
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    checks = [(line["words"], line["things"]) for line in lines if line["event"] == "check"]
    assert checks == [(words, things) for words in ("base", "all") for things in (1, 2, 3)]
    assert (tmp_path / "recognizer" / "done.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 0.0}, "there is no end"),
        ({"scenes": 1}, "at least 2"),
        ({"batch": 1}, "at least 2"),
        ({"vae_share": 1.5}, "is no share"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, change, message):
    with pytest.raises(RequestError, match=message):
        train_recognizer(dataclasses.replace(Settings(), **change), tmp_path, device=CPU)


def test_a_folder_without_vae_is_named(tmp_path):
    with pytest.raises(ModelError, match="no VAE in"):
        Coder(tmp_path, CPU)


def test_round_trip_of_a_vae_is_encode_and_decode(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    kind = ("DownEncoderBlock2D",), ("UpDecoderBlock2D",)
    vae = AutoencoderKL(
        down_block_types=kind[0],
        up_block_types=kind[1],
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()
    vae.save_pretrained(tmp_path / "vae")
    coder = Coder(tmp_path, CPU)
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        wanted = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5
    torch.testing.assert_close(coder.round_trip(images), wanted.clamp(0, 1))
    pictures = (images * 255).round().to(torch.uint8)
    before = pictures.clone()
    coder.soften(pictures[:1], 0)
    assert not torch.equal(pictures[0], before[0]) and torch.equal(pictures[1], before[1])
