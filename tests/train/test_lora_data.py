"""What is trained on: own pictures, drawn ones, and what may be said about them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from compose.errors import ConceptError
from compose.train import lora
from compose.train.lora_config import LoraConfig
from compose.train.lora_data import Bank, Pictures, concept_pictures, prior_pictures
from compose.train.lora_words import Words
from tests.train.lora_pipeline import SIZE, configure, tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture
def config(tmp_path: Path) -> LoraConfig:
    return configure(tmp_path)


def photos(folder: Path, *captions: str | None) -> None:
    """Pictures of 24 by 20 pixels, red left and blue right, each with its caption file."""
    (folder / "photos").mkdir()
    for number, text in enumerate(captions):
        picture = Image.new("RGB", (24, 20), "red")
        picture.paste("blue", (12, 0, 24, 20))
        picture.save(folder / "photos" / f"{number}.png")
        if text is not None:
            (folder / "photos" / f"{number}.txt").write_text(text)


def test_a_bank_draws_only_a_pictures_own_captions(pipe: Any) -> None:
    bank = Bank(
        torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1),
        torch.zeros(3, 1, 1, 1),
        0.5,
        torch.arange(6.0).view(6, 1, 1),
        Words(torch.arange(6)[:, None] % 2 == 1, torch.arange(6)[:, None] > 3),
        torch.tensor([[1, 2], [3, 3], [4, 5]]),
    )
    batch = bank.draw(200, 0.0, torch.Generator().manual_seed(0))
    rows = zip(batch.latents.flatten(), batch.texts.flatten(), strict=True)
    assert {(float(x), int(t)) for x, t in rows} == {(0.5, 1), (0.5, 2), (1, 3), (1.5, 4), (1.5, 5)}
    assert torch.equal(batch.words.trigger, batch.texts[..., 0] % 2 == 1)
    assert torch.equal(batch.words.class_word, batch.texts[..., 0] > 3)
    batch = bank.draw(200, 0.5, torch.Generator().manual_seed(0))
    assert 70 < int((batch.texts == 0).sum()) < 130


def test_mirrored_pictures_keep_captions_without_sides() -> None:
    images = torch.rand(2, 3, 4, 4)
    both = Pictures(
        images, (("<v1> on the left, at night", "a <v1> cat"), ("a <v1> on the right",))
    ).with_mirrored()
    assert both.captions[2:] == (("a <v1> cat",),)
    assert torch.equal(both.images[2], images[0].flip(-1))


def test_own_pictures_are_cut_resized_and_captioned(tmp_path: Path) -> None:
    photos(tmp_path, "a <v1> cat on the beach\n\na <v1> cat\n", None)
    pictures = concept_pictures(configure(tmp_path, "images: photos\n", flip=False), SIZE)
    assert pictures.images.shape == (2, 3, SIZE, SIZE)
    assert pictures.captions == (("a <v1> cat on the beach", "a <v1> cat"), ("a <v1> cat",))
    red, blue = pictures.images[0, :, :, 1], pictures.images[0, :, :, -2]
    assert red[0].min() > 0.99 and red[2].max() < 0.01 and blue[2].min() > 0.99


def test_own_pictures_train(pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos(tmp_path, "a <v1> cat on a skateboard", "a cat")
    config = configure(tmp_path, "images: photos\n")
    with caplog.at_level(logging.WARNING):
        file = lora.train_lora(config, pipe=pipe, out=tmp_path / "mine.safetensors")
    assert file.is_file()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "captions of 1.png lack the trigger <v1>; it cannot call them up",
        "the embedded model never learned these words of the captions: skateboard",
    ]


def test_a_trigger_in_pieces_is_pointed_out(
    pipe: Any, config: LoraConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = replace(config, concept=replace(config.concept, trigger="zxqj"))
    with caplog.at_level(logging.WARNING):
        lora.train_lora(strange, pipe=pipe, out=tmp_path / "mine.safetensors")
    (record,) = caplog.records
    assert "zxqj falls into 4 tokens" in record.getMessage()
    assert "<v1> to <v16>" in record.getMessage()


def test_prior_pictures_show_the_world_without_the_concept(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compose.train.lora_data._PRIOR_SCENES", 4)
    config = configure(tmp_path, prior=0.5)
    prior = prior_pictures(config, SIZE)
    assert not any("<v1>" in text for group in prior.captions for text in group)
    assert lora.train_lora(config, pipe=pipe, out=tmp_path / "mine.safetensors").is_file()


def test_captions_of_company_call_the_concept_and_name_the_others(tmp_path: Path) -> None:
    config = configure(tmp_path, company=1.0, captions=8)
    several = replace(config, concept=replace(config.concept, count=6))
    texts = [text for group in concept_pictures(several, SIZE).captions for text in group]
    assert all(text.count("<v1> cat") == 1 for text in texts)
    assert not any("teal" in text for text in texts)
    firsts = {text.split("<v1>")[0] == "" or len(text.split("<v1>")[0]) < 5 for text in texts}
    assert firsts == {True, False}  # the trigger stands early in some and late in others


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConceptError, match="photos holds no pictures"):
        concept_pictures(configure(tmp_path, "images: photos\n"), SIZE)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    photos(tmp_path, None)
    (tmp_path / "photos" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ConceptError, match=r"0\.png cannot be read as a picture"):
        concept_pictures(configure(tmp_path, "images: photos\n"), SIZE)
