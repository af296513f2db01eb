"""What a concept file may say about its training, and what it hears when it says more."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from compose.errors import ConceptError
from compose.train.lora_config import LIMITS, LoraSettings, load_config
from compose.train.lora_data import concept_pictures
from compose.world.captions import unknown_words

EXAMPLES = Path(__file__).parents[2] / "workflows" / "examples"

MOCHI = "name: mine\ntrigger: <v1>\ncategory: {}\nclass_word: cat\n{}\n"
SUBJECTS = {
    "character": "thing: {species: cat, colour: teal}",
    "clothing": "accessory: {kind: cape, colour: gold}",
    "style": "style: sunwash",
    "background": "background: moon",
    "object": "thing: {species: rocket, colour: teal}",
}


def concept(folder: Path, train: str = "", category: str = "character") -> Path:
    path = folder / "mine.yaml"
    path.write_text(MOCHI.format(category, SUBJECTS[category]) + train)
    return path


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("concept_*.yaml")), ids=lambda p: p.stem)
def test_examples_can_be_trained(example: Path) -> None:
    config = load_config(example)
    pictures = concept_pictures(replace(config, concept=replace(config.concept, count=2)), 32)
    assert len(pictures.images) >= 2
    texts = [text for group in pictures.captions for text in group]
    assert all(config.concept.trigger in text and not unknown_words(text) for text in texts)


@pytest.mark.parametrize("category", SUBJECTS)
def test_defaults_go_by_category_and_machine(tmp_path: Path, category: str) -> None:
    path = concept(tmp_path, category=category)
    here, gpu = load_config(path).settings, load_config(path, gpu=True).settings
    told_by_name = category in ("character", "clothing")
    assert (here.targets, here.rank) == (("attention_ff", 8) if told_by_name else ("wide", 4))
    assert (here.steps, here.batch, gpu.steps, gpu.batch) == (300, 8, 600, 32)
    assert here.alpha == here.rank


def test_file_wins_over_defaults_and_options_over_the_file(tmp_path: Path) -> None:
    path = concept(
        tmp_path, "seed: 5\ntrain: {rank: 4, lr: 1e-3, min_snr: 5, steps: 200, flip: true}"
    )
    settings = load_config(path, overrides={"steps": 7}).settings
    assert (settings.rank, settings.alpha, settings.lr, settings.min_snr) == (4, 4.0, 0.001, 5.0)
    assert (settings.steps, settings.flip, settings.seed) == (7, True, 5)


def test_alpha_follows_the_rank_of_the_options(tmp_path: Path) -> None:
    assert load_config(concept(tmp_path), overrides={"rank": 2}).settings.alpha == 2.0


def test_alignment_follows_tara(tmp_path: Path) -> None:
    plain, own = (
        load_config(concept(tmp_path)),
        load_config(concept(tmp_path, "train: {tara: true}")),
    )
    assert (plain.settings.tara, plain.settings.align) == (False, 0.0)
    assert (own.settings.tara, own.settings.align, own.settings.align_power) == (True, 1.0, 1)
    off = load_config(concept(tmp_path, "train: {tara: true, align: 0, align_power: 2}")).settings
    assert (off.align, off.align_power) == (0.0, 2)


def test_alignment_needs_tara_and_a_class_word(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match=r"train\.align is 0\.5, but train\.tara is false"):
        load_config(concept(tmp_path), overrides={"align": 0.5})
    path = concept(tmp_path, "train: {tara: true}")
    path.write_text(path.read_text().replace("class_word: cat", ""))
    with pytest.raises(ConceptError, match=r"train\.align is 1, but the concept has no class_word"):
        load_config(path)
    assert load_config(path, overrides={"align": 0}).settings.tara


def test_only_figures_have_company(tmp_path: Path) -> None:
    for category in ("character", "clothing", "object"):
        path = concept(tmp_path, "train: {company: 0.5}", category)
        assert load_config(path).settings.company == 0.5
    with pytest.raises(ConceptError, match=r"train\.company is 0\.5, but only what is drawn from"):
        load_config(concept(tmp_path, "train: {company: 0.5}", "style"))


def test_every_setting_has_a_limit() -> None:
    assert set(LIMITS) == {f.name for f in fields(LoraSettings)}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("rank: 0", "train.rank is 0, expected a whole number from 1 to 128"),
        ("rank: 2.5", "train.rank is 2.5, expected a whole number"),
        ("rank: true", "train.rank is True, expected a whole number"),
        ("steps: many", "train.steps is 'many', expected a whole number from 1 to 100000"),
        ("steps: .inf", "train.steps is inf, expected"),
        ("lr: [1]", r"train.lr is \[1\], expected a number from 1e-07 to 1"),
        ("lr: .nan", "train.lr is nan, expected"),
        (
            "targets: all",
            "train.targets is 'all', expected one of keys_values, cross, attention, attention_ff,",
        ),
        ("tara: 1", "train.tara is 1, expected true or false"),
        ("align: -1", "train.align is -1, expected a number from 0 to 100"),
        ("align_power: 3", "train.align_power is 3, expected a whole number from 1 to 2"),
        ("min_snr: -1", "train.min_snr is -1, expected a number from 0.1 to 100, or null"),
        ("flip: 1", "train.flip is 1, expected true or false"),
        ("rnak: 4", "train.rnak is not a setting; did you mean rank"),
    ],
)
def test_a_wrong_setting_names_file_key_value_and_what_is_allowed(
    tmp_path: Path, train: str, said: str
) -> None:
    path = concept(tmp_path, f"train: {{{train}}}")
    with pytest.raises(ConceptError, match=said) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))


def test_train_must_be_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="train is 8, expected settings"):
        load_config(concept(tmp_path, "train: 8"))


def test_options_are_checked_like_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match=r"options: train\.steps is 0"):
        load_config(concept(tmp_path), overrides={"steps": 0})
