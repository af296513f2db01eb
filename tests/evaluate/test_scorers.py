"""Scorers: plumbing on tiny models with random weights, and what is refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from compose.errors import MissingExtraError, ModelError, RequestError, ShapeError
from compose.evaluate.scorers import (
    ClipScorer,
    ImageScorer,
    PluginScorer,
    concept_scores,
    load_scorer,
)
from compose.evaluate.scorers.extra import needs
from compose.train.tokenizer import build_tokenizer

TEXTS = ["a red cat", "a blue dog on the beach", "a car", "a red cat"]


def pictures(count: int = 4) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, size=(40 + 9 * i, 48, 3), dtype=np.uint8))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP model of two layers in the layout of transformers."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 20,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A DINOv2 model of two layers."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-dino"
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    Dinov2Model(config).save_pretrained(folder)
    size = {"shortest_edge": 32}
    BitImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_clipscore_is_a_hundred_times_the_models_cosine(clip) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(clip).eval()
    seen = CLIPImageProcessorPil.from_pretrained(clip)(pictures(), return_tensors="pt")
    read = AutoTokenizer.from_pretrained(clip)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**read, **seen).logits_per_image / model.logit_scale.exp()
    wanted = (100 * logits.diagonal()).clamp_min(0)
    found = load_scorer(f"clip={clip}", device="cpu").score(pictures(), TEXTS)
    assert found == pytest.approx(wanted.numpy(), abs=1e-3)
    assert (found >= 0).all() and (found > 0).any()


class Angles:
    """An encoder that is a table: pictures are told by their width, texts by themselves."""

    def __init__(self, **degrees: float) -> None:
        self.degrees, self.seen = degrees, 0

    def _at(self, degrees: list[float]) -> torch.Tensor:
        turned = torch.deg2rad(torch.tensor(degrees))
        return 7 * torch.stack([turned.cos(), turned.sin()], 1)

    def images(self, images) -> torch.Tensor:
        self.seen += len(images)
        return self._at([float(image.width) for image in images])

    def texts(self, texts) -> torch.Tensor:
        return self._at([self.degrees[text] for text in texts])


def picture(width: int) -> Image.Image:
    return Image.new("RGB", (width, 4))


def test_the_convention_is_stated_in_numbers() -> None:
    scorer = ClipScorer("table", Angles(near=60.0, same=30.0, behind=200.0))
    scores = scorer.score([picture(30)] * 3, ["same", "near", "behind"])
    assert scores == pytest.approx([100.0, 100 * np.cos(np.pi / 6), 0.0], abs=1e-4)
    assert ImageScorer("table", Angles()).score(
        [picture(10), picture(10)], [picture(10), picture(190)]
    ) == pytest.approx([1.0, -1.0], abs=1e-6)


def test_the_worst_concept_is_not_hidden_by_the_mean() -> None:
    encoder = Angles(cat=30.0, hat=90.0, dog=45.0)
    images = [picture(30), picture(45)]
    found = concept_scores(ClipScorer("table", encoder), images, [["cat", "hat"], ["dog"]])
    assert found.each[0] == pytest.approx((100.0, 50.0), abs=1e-4)
    assert found.least == pytest.approx([50.0, 100.0], abs=1e-4)
    assert found.mean == pytest.approx([75.0, 100.0], abs=1e-4)
    assert encoder.seen == 2  # each picture once, however many concepts it has


@pytest.mark.parametrize("kind", ["dino", "clip-images"])
def test_equal_pictures_score_one_and_others_less(kind, clip, dino) -> None:
    scorer = load_scorer(f"{kind}={dino if kind == 'dino' else clip}", device="cpu")
    made = pictures()
    same = scorer.score(made, [image.copy() for image in made])
    assert same == pytest.approx(np.ones(4), abs=1e-5)
    other = scorer.score(made, made[1:] + made[:1])
    assert (other < 1 - 1e-4).all() and (other >= -1).all()
    assert scorer.score(made[1:] + made[:1], made) == pytest.approx(other, abs=1e-5)


def test_more_change_is_less_alike(dino) -> None:
    (image,) = pictures(1)
    noise = np.random.default_rng(1).integers(0, 255, size=(*image.size[::-1], 3), dtype=np.uint8)
    blends = [Image.blend(image, Image.fromarray(noise), share) for share in (0.0, 0.1, 0.6)]
    scores = load_scorer(f"dino={dino}", device="cpu").score([image] * 3, blends)
    assert scores[0] == pytest.approx(1.0, abs=1e-6) and scores[0] > scores[1] > scores[2]


def test_dino_features_are_the_class_token(dino) -> None:
    from transformers import BitImageProcessorPil, Dinov2Model

    scorer = load_scorer(f"dino={dino}", device="cpu")
    pixels = BitImageProcessorPil.from_pretrained(dino)(pictures(), return_tensors="pt")
    with torch.inference_mode():
        wanted = Dinov2Model.from_pretrained(dino).eval()(**pixels).pooler_output
        found = scorer.encoder.images(pictures())
    torch.testing.assert_close(found, wanted)


def test_a_vit_without_its_pooler_is_whole(tmp_path) -> None:
    """DINO's first models are ViTModel and have no pooler: what is not used may be missing."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    scorer = load_scorer(f"dino={tmp_path}", device="cpu")
    assert scorer.score(pictures(2), pictures(2)) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_long_text_is_not_cut(clip) -> None:
    with pytest.raises(
        RequestError, match=r"a text of \d+ tokens .* CLIP reads 20; give the words"
    ):
        load_scorer(f"clip={clip}", device="cpu").score(pictures(1), ["a red cat " * 9])


def test_weights_that_are_missing_give_no_score(clip, tmp_path) -> None:
    whole = load_file(clip / "model.safetensors")
    for path in clip.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"cannot be loaded .* model.safetensors"):
        load_scorer(f"clip={tmp_path}", device="cpu")
    part = {name: value for name, value in whole.items() if "text_projection" not in name}
    save_file(part, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights of a CLIPModel \(text_projection.*random"):
        load_scorer(f"clip={tmp_path}", device="cpu")


@pytest.mark.parametrize("spec", ["clip=ViT-B-32", "open-clip=ViT-B-32", "dino=", "clip"])
def test_a_name_is_no_folder_of_weights(spec) -> None:
    with pytest.raises(ModelError, match=r"is no folder; .*random weights"):
        load_scorer(spec)


def test_unknown_scorers_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'dinu=/tmp' is not known; expected KIND=FOLDER or"):
        load_scorer("dinu=/tmp")
    with pytest.raises(RequestError, match=r"'no_such_module:score' cannot be imported"):
        load_scorer("no_such_module:score")
    with pytest.raises(RequestError, match=r"'json:nothing' cannot be imported"):
        load_scorer("json:nothing")
    with pytest.raises(RequestError, match=r"'math:pi' is float; expected a function"):
        load_scorer("math:pi")


def test_a_function_of_the_users_is_a_scorer(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_scores.py").write_text(
        "def wide(images, references):\n"
        "    return [i.width / r for i, r in zip(images, references)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scorer = load_scorer("my_scores:wide")
    assert scorer.name == "my_scores:wide"
    assert scorer.score([picture(10), picture(30)], [10, 10]).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("given", [[1.0], [[1.0], [2.0]], [1.0, float("nan")]])
def test_a_function_has_to_give_one_number_for_each(given) -> None:
    scorer = PluginScorer("mine", lambda images, references: given)
    with pytest.raises(ShapeError, match=r"scorer mine gave .* one finite number for each"):
        scorer.score([picture(1), picture(2)], ["a", "b"])


def test_references_have_to_match() -> None:
    scorer = ClipScorer("table", Angles(a=1.0))
    with pytest.raises(ShapeError, match="2 pictures and 1 references"):
        scorer.score([picture(1), picture(2)], ["a"])
    with pytest.raises(ShapeError, match="0 pictures"):
        scorer.score([], [])
    with pytest.raises(ShapeError, match=r"1 pictures and concepts \[0\]"):
        concept_scores(scorer, [picture(1)], [[]])


@pytest.fixture
def open_clip_folder(tmp_path):
    """What looks like a model of open_clip."""
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_without_the_extra_the_message_names_it(open_clip_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as if it were not installed
    monkeypatch.setattr("compose.evaluate.scorers.extra._version", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lora-compose\[metrics\]'"):
        load_scorer(f"open-clip={open_clip_folder}", device="cpu")


def test_a_broken_torchvision_is_explained(monkeypatch) -> None:
    there = {"open-clip-torch": "3.3.0", "torchvision": "0.28.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr("compose.evaluate.scorers.extra._version", there.get)
    with (
        pytest.raises(MissingExtraError) as caught,
        needs("open-clip-torch", "metrics"),
    ):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")
    said = str(caught.value)
    assert "operator torchvision::nms does not exist" in said and "\n" not in said
    assert "torchvision 0.28.0 may not fit torch 2.13.0+cpu" in said
    assert "the CPU build" in said and "[metrics]" in said
    del there["torchvision"]
    with (
        pytest.raises(MissingExtraError, match="install the extra again"),
        needs("open-clip-torch", "metrics"),
    ):
        raise ImportError("cannot import name")


def test_open_clip_folders_are_checked_before_anything_is_imported(open_clip_folder) -> None:
    config = open_clip_folder / "open_clip_config.json"
    fetched = {"model_cfg": {"text_cfg": {"hf_model_name": "xlm-roberta-base"}}}
    config.write_text(json.dumps(fetched))
    with pytest.raises(ModelError, match=r"\(xlm-roberta-base\) would be fetched from the hub"):
        load_scorer(f"open-clip={open_clip_folder}", device="cpu")
    (open_clip_folder / "open_clip_model.safetensors").unlink()
    (open_clip_folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"holds no weights as safetensors; .*random weights"):
        load_scorer(f"open-clip={open_clip_folder}", device="cpu")
    config.write_text("{}")
    with pytest.raises(ModelError, match=r"holds no open_clip_config.json with a model_cfg"):
        load_scorer(f"open-clip={open_clip_folder}", device="cpu")
