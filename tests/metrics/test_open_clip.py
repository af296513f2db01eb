"""CLIPScore through open_clip: plumbing on a tiny model with random weights."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from compose.errors import ModelError, RequestError
from compose.evaluate.scorers import ImageScorer, load_scorer
from tests.metrics.conftest import BROKEN

pytestmark = pytest.mark.metrics

TEXTS = ["a red square", "a blue dog on the beach", "a wizard hat"]
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, size=(40 + 9 * i, 48, 3), dtype=np.uint8))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The model, its transform, and its folder in the layout that open_clip saves to the hub."""
    configs = tmp_path_factory.mktemp("configs")
    (configs / "tiny-test.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(configs)
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("tiny-test", pretrained=None)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": model.visual.preprocess_cfg})
    )
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    return model.eval(), transform, folder


def test_clipscore_is_a_hundred_times_the_models_cosine(tiny) -> None:
    model, transform, folder = tiny
    with torch.inference_mode():
        seen = model.encode_image(torch.stack([transform(p) for p in pictures()]), normalize=True)
        read = model.encode_text(open_clip.get_tokenizer("tiny-test")(TEXTS), normalize=True)
    wanted = (100 * (seen * read).sum(1)).clamp_min(0)
    scorer = load_scorer(f"open-clip={folder}", device="cpu")
    assert scorer.name == "open-clip tiny"
    found = scorer.score(pictures(), TEXTS)
    assert found == pytest.approx(wanted.numpy(), abs=1e-3)
    turned = scorer.score(pictures()[::-1], TEXTS[::-1])
    assert turned == pytest.approx(found[::-1], abs=1e-3)


def test_equal_pictures_are_alike(tiny) -> None:
    scorer = load_scorer(f"open-clip={tiny[2]}", device="cpu")
    images = ImageScorer("tiny", scorer.encoder)
    made = pictures()
    assert images.score(made, [p.copy() for p in made]) == pytest.approx(np.ones(3), abs=1e-5)
    assert (images.score(made, made[1:] + made[:1]) < 1 - 1e-4).all()


def test_a_long_text_is_not_cut(tiny) -> None:
    scorer = load_scorer(f"open-clip={tiny[2]}", device="cpu")
    fits = "red " * 14  # and the two marks around it
    assert scorer.score(pictures(1), [fits]).shape == (1,)
    for text in ("red " * 15, "red " * 200):
        with pytest.raises(RequestError, match=r"more than 16 tokens .*; give the words of one"):
            scorer.score(pictures(1), [text])


def test_weights_that_do_not_fit_give_no_score(tiny, tmp_path) -> None:
    whole = load_file(tiny[2] / "open_clip_model.safetensors")
    config = (tiny[2] / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    part = {name: value for name, value in whole.items() if name != "text_projection"}
    save_file(part, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be loaded by open_clip \(.*text_projection"):
        load_scorer(f"open-clip={tmp_path}", device="cpu")


@pytest.mark.skipif(not BROKEN, reason="torchvision works here as it is")
@pytest.mark.parametrize("kind", ["open-clip", "clip", "dino"])
def test_a_torchvision_that_breaks_everything_is_explained(tiny, kind) -> None:
    """In a fresh process, without what conftest.py declares."""
    code = (
        "import sys\n"
        "from compose.errors import MissingExtraError\n"
        "from compose.evaluate.scorers import load_scorer\n"
        "try:\n"
        "    load_scorer(sys.argv[1], device='cpu')\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    spec = f"{kind}={tiny[2]}"
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "may not fit torch" in done.stdout and "[metrics]" in done.stdout
    assert "the CPU build" in done.stdout
