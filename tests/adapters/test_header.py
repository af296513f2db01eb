"""What files and notes say is collected in a fixed order, and never trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compose.adapters.bases import canonical
from compose.adapters.header import CATEGORIES, MAX_ITEMS, MAX_LINE, MAX_TEXT, Facts, read_facts

OWN = {
    "format": 1,
    "category": "character",
    "trigger": "mochi",
    "class_word": "cat",
    "base": "0123456789abcdef",
    "made_for": "tara",
    "training": {"rank": 8},
}
SPEC = {
    "modelspec.title": "Mochi",
    "modelspec.trigger_phrase": "mochi, teal cat",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.description": "a cat\nof two colours",
    "modelspec.tags": "Style, cat",
}
KOHYA = {
    "ss_output_name": "mochi_v2",
    "ss_base_model_version": "sd_v1",
    "ss_network_dim": "8",
    "ss_network_alpha": "4.0",
    "ss_tag_frequency": json.dumps({"1_a": {"cat": 3, " hat": 1}, "2_b": {"hat": 9, "x": "?"}}),
}


def facts(tmp_path: Path, metadata: dict[str, str], **notes: Any) -> Facts:
    for ending, note in notes.items():
        text = note if isinstance(note, str) else json.dumps(note)
        (tmp_path / f"mochi.{ending.replace('_', '.')}").write_text(text)
    return read_facts(tmp_path / "mochi.safetensors", "mochi", metadata)


def test_a_silent_file_has_no_facts(tmp_path: Path) -> None:
    assert facts(tmp_path, {}) == Facts()


def test_our_own_header(tmp_path: Path) -> None:
    found = facts(tmp_path, {"lora_compose": json.dumps(OWN)})
    assert found == Facts(
        triggers=("mochi",),
        category="character",
        class_word="cat",
        fingerprint=OWN["base"],
        made_for="tara",
    )


def test_modelspec(tmp_path: Path) -> None:
    found = facts(tmp_path, SPEC)
    assert found.title == "Mochi" and found.triggers == ("mochi", "teal cat")
    assert found.base == "stable-diffusion-v1/lora" and canonical(found.base) == "sd15"
    assert found.description == "a cat\nof two colours"
    assert found.category == "style", "a tag that is a category counts as one"


def test_kohya(tmp_path: Path) -> None:
    found = facts(tmp_path, KOHYA)
    assert found.title == "mochi_v2" and found.base == "sd_v1"
    assert found.tags == ("hat", "cat") and found.triggers == ()
    assert (found.rank, found.alpha) == (8, 4)


def test_notes_beside_the_file(tmp_path: Path) -> None:
    by_hand = {
        "activation text": "mochi , <b>",
        "preferred weight": "0.7",
        "notes": "nice",
        "sd version": "Unknown",
    }
    civitai = {
        "trainedWords": ["mochi cat, teal fur"],
        "baseModel": "SD 1.5",
        "model": {"name": "Mochi the cat", "tags": ["Character", "cat"]},
    }
    found = facts(tmp_path, {}, json=by_hand, civitai_info=civitai)
    assert found == Facts(
        title="Mochi the cat",
        triggers=("mochi", "<b>"),
        category="character",
        base="SD 1.5",
        description="nice",
        default_weight=0.7,
        tags=("Character", "cat"),
    )
    (tmp_path / "mochi.json").unlink()
    (tmp_path / "mochi.civitai.info").unlink()
    found = facts(tmp_path, {}, metadata_json={"civitai": civitai, "base_model": "SDXL 1.0"})
    assert found.triggers == ("mochi cat", "teal fur") and found.base == "SD 1.5"


def test_the_first_source_counts(tmp_path: Path) -> None:
    own = {**OWN, "description": "ours"}
    metadata = {"lora_compose": json.dumps(own), **SPEC, **KOHYA}
    found = facts(tmp_path, metadata, json={"activation text": "by hand"})
    assert found.triggers == ("by hand",) and found.description == "ours"
    assert found.title == "Mochi" and found.base == "stable-diffusion-v1/lora"
    assert found.category == "character" and found.tags == ("Style", "cat")


@pytest.mark.parametrize(
    ("metadata", "notes", "says"),
    [
        ({"lora_compose": "{"}, {}, "lora_compose is no JSON table"),
        ({"lora_compose": "[1]"}, {}, "lora_compose is no JSON table"),
        ({"lora_compose": "[" * 100_000}, {}, "lora_compose is no JSON table"),
        ({"lora_compose": '{"category": "villain"}'}, {}, "category is villain"),
        ({"ss_tag_frequency": "nothing"}, {}, "ss_tag_frequency is no JSON table"),
        ({"ss_network_dim": "Dynamic"}, {}, "ss_network_dim is Dynamic, not a number"),
        ({}, {"json": "not JSON"}, "mochi.json is no JSON table"),
        ({}, {"json": {"preferred weight": 99}}, "default weight 99 is not believed"),
        ({}, {"json": {"preferred weight": "1e999"}}, "preferred weight is 1e999"),
        ({}, {"civitai_info": "\0"}, "mochi.civitai.info is no JSON table"),
    ],
)
def test_what_cannot_be_understood_is_a_warning(
    metadata: dict[str, str], notes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    found = facts(tmp_path, metadata, **notes)
    assert len(found.warnings) == 1 and says in found.warnings[0]
    assert found.default_weight == 1 and found.category == "other"


def test_texts_are_cut_and_cleaned(tmp_path: Path) -> None:
    metadata = {
        "modelspec.title": "\x1b[31mred\u202e\n" + "x" * 1000,
        "modelspec.trigger_phrase": ",".join(f"word{i}" for i in range(10_000)),
        "modelspec.description": "y" * 10_000,
    }
    found = facts(tmp_path, metadata)
    assert found.title.startswith("[31mred") and found.title.isprintable()
    assert len(found.title) <= MAX_LINE and len(found.description) == MAX_TEXT
    assert len(found.triggers) == MAX_ITEMS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = (
    *("name", "trigger", "triggers", "category", "default_weight", "description", "base"),
    *("activation text", "preferred weight", "notes", "trainedWords", "baseModel", "model", "tags"),
    *("civitai", "model_name", "base_model", "sd version"),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), frequency=JSON)
def test_any_json_gives_sound_facts(tmp_path: Path, table: dict[str, Any], frequency: Any) -> None:
    texts = {"lora_compose": json.dumps(table), "ss_tag_frequency": json.dumps(frequency)}
    found = facts(tmp_path, texts, json=table, civitai_info=table, metadata_json=table)
    assert found.category in CATEGORIES and abs(found.default_weight) <= 10
    lines = (found.title, found.base, *found.triggers, *found.tags, *found.warnings)
    assert all(isinstance(line, str) and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("sd_v1", "sd15"),
        ("SD 1.5", "sd15"),
        ("stable-diffusion-v1/lora", "sd15"),
        ("SD1", "sd15"),
        ("sd_v2_768_v", "sd2"),
        ("SD 2.1", "sd2"),
        ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("sdxl_base_v1-0", "sdxl"),
        ("Illustrious", "sdxl"),
        ("Pony", "sdxl"),
        ("Flux.1 D", "flux"),
        ("flux1", "flux"),
        ("Flux.2 D", "flux2"),
        ("stable-diffusion-3-medium", "sd3"),
        ("SD 3.5 Large", "sd3"),
        ("lora-compose-world/lora", "embedded"),
        ("lora_compose_world", "embedded"),
        ("Wan Video", ""),
        ("", ""),
    ],
)
def test_bases_have_one_short_name(text: str, base: str) -> None:
    assert canonical(text) == base
