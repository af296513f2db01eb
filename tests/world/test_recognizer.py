"""Decoding, windows, files: against targets made by hand."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from compose.errors import ModelError, ShapeError
from compose.world.reading import (
    embeddings,
    find_peaks,
    read,
)
from compose.world.recognizer import GRID, PICTURE_HEADS, THING_HEADS, Features, Recognizer, _window
from compose.world.recognizer_file import FILE, load_recognizer, save_recognizer
from compose.world.score import similarity


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    """Random weights with lively normalisation statistics."""
    torch.manual_seed(0)
    network = Recognizer()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
    return network.eval()


def features(things: list[list[tuple[float, float, float, float]]]) -> Features:
    """Perfect tensors for things given as (x, y, size, height of the peak)."""
    n = len(things)
    heat = torch.full((n, GRID, GRID), -12.0)
    offset, size = torch.zeros(n, 2, GRID, GRID), torch.zeros(n, GRID, GRID)
    for i, row in enumerate(things):
        for x, y, tall, peak in row:
            c, r = int(x * GRID), int(y * GRID)
            heat[i, r, c] = torch.tensor(peak).logit()
            offset[i, :, r, c] = torch.tensor([x * GRID - c, y * GRID - r])
            size[i, r, c] = torch.tensor(tall).log()
    return Features(torch.zeros(0), torch.zeros(0), heat, offset, size, {})


def test_peaks_return_what_the_tensors_say():
    things = [[(0.25, 0.61, 0.5, 0.9), (0.7433, 0.5571, 0.41, 0.8)], [], [(0.013, 0.99, 0.7, 0.6)]]
    peaks = find_peaks(features(things), 0.5)
    assert peaks.rows.tolist() == [0, 0, 2]
    wanted = torch.tensor([thing for row in things for thing in row])
    torch.testing.assert_close(peaks.boxes, wanted[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(peaks.scores, wanted[:, 3], atol=1e-5, rtol=0)


def test_of_two_near_centres_the_higher_stays():
    peaks = find_peaks(features([[(0.40, 0.5, 0.6, 0.7), (0.55, 0.5, 0.6, 0.9)]]), 0.3)
    torch.testing.assert_close(peaks.boxes, torch.tensor([[0.55, 0.5, 0.6]]), atol=1e-5, rtol=0)
    apart = find_peaks(features([[(0.35, 0.5, 0.6, 0.7), (0.55, 0.5, 0.6, 0.9)]]), 0.3)
    assert apart.rows.tolist() == [0, 0]


def test_a_suppressed_centre_suppresses_nothing():
    row = [(0.30, 0.5, 0.5, 0.9), (0.42, 0.5, 0.5, 0.8), (0.54, 0.5, 0.5, 0.7)]
    peaks = find_peaks(features([row]), 0.3)
    assert [round(x, 2) for x in peaks.boxes[:, 0].tolist()] == [0.30, 0.54]


def test_low_peaks_and_slopes_are_no_things():
    made = features([[(0.5, 0.5, 0.5, 0.9), (0.2, 0.5, 0.5, 0.29)]])
    made.heat[0, 16, 17] = 0.5  # beside the peak at column 16, above the threshold
    assert find_peaks(made, 0.3).rows.tolist() == [0]


def test_six_things_are_six():
    row = [(0.15 + 0.3 * i, 0.3 + 0.4 * j, 0.3, 0.9) for i in range(3) for j in range(2)]
    assert len(find_peaks(features([row]), 0.3).rows) == 6


def test_window_samples_a_ramp_where_the_box_lies():
    line = (torch.arange(64) + 0.5) / 64
    ramp = torch.stack(
        [line.expand(64, 64), line[:, None].expand(64, 64)]
    )  # x and y of every pixel
    boxes = torch.tensor([[0.5, 0.4, 0.3], [0.6, 0.5, 0.4]])
    seen = _window(torch.stack([ramp, ramp * 2]), torch.tensor([0, 1]), boxes, 3)
    reach = 0.68 * boxes[:, 2]
    for t, scale in enumerate((1, 2)):
        x, y, half = *boxes[t, :2].tolist(), float(reach[t])
        wanted = torch.tensor([x - half, x, x + half]) * scale
        torch.testing.assert_close(seen[t, 0], wanted.expand(3, 3), atol=1e-5, rtol=0)
        wanted = torch.tensor([y - half, y, y + half]) * scale
        torch.testing.assert_close(seen[t, 1], wanted[:, None].expand(3, 3), atol=1e-5, rtol=0)


def test_file_gives_the_same_answers_folded_and_in_half(recognizer, tmp_path):
    recognizer.temperatures["colour"] = 1.5
    path = save_recognizer(recognizer, tmp_path)
    assert path == tmp_path / FILE and path.stat().st_size <= 4_000_000
    loaded = load_recognizer(tmp_path)
    assert loaded.temperatures["colour"] == 1.5
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in loaded.modules())
    images, boxes = torch.rand(3, 3, 128, 128), torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.7, 0.4]])
    rows = torch.tensor([0, 2])
    with torch.inference_mode():
        one, two = recognizer(images), loaded(images)
        torch.testing.assert_close(one.heat, two.heat, atol=2e-2, rtol=1e-2)
        first, second = recognizer.describe(one, rows, boxes), loaded.describe(two, rows, boxes)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-2, rtol=1e-2)


def test_at_most_two_million_parameters(recognizer):
    assert sum(p.numel() for p in recognizer.parameters()) <= 2_000_000


def test_reading_takes_the_likeliest_words_and_calibrated_chances(recognizer):
    images = torch.rand(2, 3, 128, 128)
    recognizer.temperatures["species"] = 2.0
    readings = read(recognizer, images, threshold=0.0)
    assert all(list(r.things) == sorted(r.things, key=lambda s: s.x) for r in readings)
    with torch.inference_mode():
        made = recognizer(images)
        peaks = find_peaks(made, 0.0)
        logits = recognizer.describe(made, peaks.rows, peaks.boxes)
    best = int(peaks.scores.argmax())
    one = next(s for r in readings for s in r.things if s.score == float(peaks.scores[best]))
    assert one.species == THING_HEADS["species"][int(logits["species"][best].argmax())]
    chance = (logits["species"][best] / 2).softmax(0).max()
    assert one.probability("species", one.species) == pytest.approx(float(chance), abs=1e-5)
    assert similarity(one, logits["embedding"][best : best + 1]) == pytest.approx(1.0, abs=1e-5)
    background = made.picture["background"].argmax(1).tolist()
    assert [r.background for r in readings] == [PICTURE_HEADS["background"][i] for i in background]


def test_pictures_in_chunks_read_as_one_by_one(recognizer, monkeypatch):
    monkeypatch.setattr("compose.world.reading._CHUNK", 2)
    images = torch.rand(3, 3, 128, 128)
    together = read(recognizer, images, threshold=0.0)
    alone = [read(recognizer, image[None], threshold=0.0)[0] for image in images]
    assert [r.background for r in together] == [r.background for r in alone]
    assert [len(r.things) for r in together] == [len(r.things) for r in alone]
    assert read(recognizer, images[:0]) == []


def test_embeddings_leave_out_empty_pictures(recognizer, monkeypatch):
    assert embeddings(recognizer, torch.rand(2, 3, 128, 128)).shape[1] == 64
    monkeypatch.setattr(recognizer, "threshold", 1.1)
    assert embeddings(recognizer, torch.rand(2, 3, 128, 128)).shape == (0, 64)


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 3, 64, 64), (1, 4, 128, 128)])
def test_other_shapes_are_refused(recognizer, shape):
    with pytest.raises(ShapeError, match=r"expected \[N, 3, 128, 128\]"):
        recognizer(torch.rand(shape))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no recognizer at .*python -m compose.train recognizer"):
        load_recognizer(tmp_path / "none.safetensors")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"no safetensors at all")
    with pytest.raises(ModelError, match="is no safetensors file"):
        load_recognizer(tmp_path)


def test_another_vocabulary_is_refused(tmp_path):
    save_file(
        {"a": torch.zeros(1)},
        tmp_path / FILE,
        {"format": "lora-compose recognizer 1", "words": "{}"},
    )
    with pytest.raises(ModelError, match="other words"):
        load_recognizer(tmp_path)


def test_other_layers_are_refused(recognizer, tmp_path):
    words = json.dumps({**THING_HEADS, **PICTURE_HEADS}, sort_keys=True)
    metadata = {"format": "lora-compose recognizer 1", "words": words}
    save_file({"stem.down.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / FILE, metadata)
    with pytest.raises(ModelError, match="does not fit the recognizer's layers"):
        load_recognizer(tmp_path)
