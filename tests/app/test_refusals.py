"""Every mistake of the user ends with one line on stderr, status 2 and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.app.conftest import Run, refused


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A picture file to use as a mask, and files that are no adapters."""
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    Image.new("L", (8, 4), 255).save(tmp_path / "wide.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "junk.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all}")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.pt")
    return tmp_path


_PLACED = ["--lora", "tiny_one", "--method", "regional", "--region", "tiny_one=0,0,1,1"]
_MASKED = ["--lora", "tiny_one", "--method", "regional", "--mask"]
_BOUND = ["--lora", "tiny_one", "--method", "tara", "--bind", "tiny_one=cat"]
GIVEN: list[tuple[list[str], list[str]]] = [
    (["--lora", "tiny_onne"], ["tiny_onne", "did you mean tiny_one"]),
    (["--lora", "tiny_one:nan"], ["nan", "finite"]),
    (["--lora", "tiny_one:1:inf"], ["inf"]),
    (["--lora", "tiny_one:much"], ["much", "mochi:0.8"]),
    (["--lora", "tiny_one:1:2:3"], ["more than two"]),
    (["--lora", ""], ["--lora ''"]),
    (["--lora", "tiny_one", "--lora", "tiny_one"], ["tiny_one", "2 times"]),
    (["--lora", "tiny_one", "--lora", "TINY_ONE"], ["same file"]),
    (["--lora", "nowhere/x.safetensors"], ["nowhere/x"]),
    (["--lora", "junk.safetensors"], ["junk"]),
    (["--lora", "pickle.safetensors"], ["pickle"]),
    (["--lora", "pickle.pt"], ["pickle"]),
    (["--method", "merg"], ["merg", "did you mean merge"]),
    (["--set", "evry=2", "--method", "switch"], ["evry", "every"]),
    (["--set", "every=0", "--method", "switch"], ["every=0", "1"]),
    (["--set", "every", "--method", "switch"], ["FIELD=VALUE"]),
    (["--set", "total=1", "--set", "total=2"], ["total", "twice"]),
    (["--set", "budget=none"], ["budget=none", "mean"]),
    (["--method", "switch"], ["switch", "at least 1"]),
    (["--scheduler", "dimm"], ["dimm", "ddim"]),
    (["--size", "33x32"], ["33x32", "32x32"]),
    (["--size", "0x0"], ["0x0"]),
    (["--size", "big"], ["big", "WxH"]),
    (["--size", "8x8x8"], ["WxH"]),
    (["--size", "-8x8"], ["WxH"]),
    (["--size", "99999999999x8"], ["too large"]),
    (["--steps", "0"], ["steps 0"]),
    (["--steps", "many"], ["many"]),
    (["--seed", "-1"], ["-1"]),
    (["--seed", "x"], ["'x'"]),
    (["--seed", str(2**63)], ["--seed", "out of range"]),
    (["--seed", str(2**63 - 1), "--count", "2"], ["--seed", "out of range"]),
    (["--count", "0"], ["--count 0"]),
    (["--guidance", "nan"], ["nan"]),
    (["--guidance", "-1"], ["-1"]),
    (["--device", "tpu"], ["tpu"]),
    (["--dtype", "int8"], ["int8"]),
    (["--model", "nowhere"], ["nowhere"]),
    (["--model", "some-body/no-model", "--offline"], ["some-body/no-model", "--offline"]),
    (["--out", "mask.png"], ["mask.png"]),
    (["--out", "mask.png/deeper"], ["mask.png"]),
    (["--grid", "merge,nothing"], ["nothing"]),
    (["--grid", ","], ["--grid"]),
    (["--grid", "merge", "--set", "every=2"], ["every"]),
    (["--grid", "merge", "--method", "merge"], ["--grid", "--method"]),
    (["--negative", "dog <lora:tiny_one:1>"], ["negative prompt"]),
    (["--lora", "tiny_one", "--region", "tiny_one=0,0,0.5,1"], ["merge", "regional"]),
    (["--lora", "tiny_one", "--mask", "tiny_one=mask.png"], ["merge", "regional"]),
    (["--lora", "tiny_one", "--method", "regional"], ["regional needs", "--region"]),
    (["--lora", "tiny_one", "--method", "tara*regional"], ["tara*regional needs", "--region"]),
    (["--lora", "tiny_one", "--region", "tiny_two=0,0,0.5,1"], ["tiny_two"]),
    (["--lora", "tiny_one", "--region", "tiny_one=0.5,0,0.5,1"], ["x0 < x1"]),
    (["--lora", "tiny_one", "--region", "tiny_one=0,0,1.5,1"], ["<= 1"]),
    (["--lora", "tiny_one", "--region", "tiny_one=0,0,1"], ["no box"]),
    (["--lora", "tiny_one", "--region", "tiny_one=nan,0,1,1"], ["no box"]),
    (["--lora", "tiny_one", "--region", "tiny_one=0,0,nan,1"], ["no box"]),
    (["--lora", "tiny_one", "--region", "tiny_one=,,,"], ["no box"]),
    (["--lora", "tiny_one", "--region", "tiny_one=-0.1,0,1,1"], ["0 <= x0"]),
    (["--lora", "tiny_one", "--region", "tiny_one"], ["--region"]),
    (["--region", "tiny_one=0,0,1,1"], ["no adapter of this request"]),
    ([*_PLACED, "--region", "tiny_one=0,0,1,1"], ["--region or --mask", "2 times", "tiny_one"]),
    ([*_PLACED, "--mask", "tiny_one=mask.png"], ["--region or --mask", "2 times"]),
    ([*_PLACED, "--set", "overlap=most"], ["overlap=most", "average"]),
    ([*_PLACED, "--set", "feather=1"], ["feather=1", "0.5"]),
    (["--lora", "tiny_one", "--mask", "tiny_one=none.png"], ["none.png"]),
    (["--lora", "tiny_one", "--mask", "tiny_one=text.png"], ["text.png", "expected a PNG"]),
    (["--lora", "tiny_one", "--mask", "tiny_one=black.png"], ["black.png", "black all over"]),
    (["--lora", "tiny_one", "--mask", "tiny_one=red.png"], ["red.png", "in colour"]),
    ([*_MASKED, "tiny_one=wide.png"], ["8x4", "width is 1 times its height", "4x4"]),
    ([*_MASKED, "tiny_one=mask.png", "--size", "64x32"], ["8x8", "2 times", "16x8"]),
    (["--lora", "tiny_one", "--grid", "merge,tara", "--mask", "tiny_one=mask.png"], ["regional"]),
    (["--lora", "tiny_two", "--method", "tara"], ["tiny_two is not called", "--bind"]),
    (["--lora", "tiny_one", "--bind", "tiny_one=ember"], ["'ember'", "not in the prompt"]),
    (["--lora", "tiny_one", "--bind", "tiny_one="], ["names no words"]),
    (["--lora", "tiny_one", "--bind", "tiny_two=cat"], ["tiny_two", "no adapter"]),
    ([*_BOUND, "--bind", "tiny_one=cat"], ["--bind", "2 times", "tiny_one"]),
    ([*_BOUND, "--lora", "tiny_two", "--bind", "tiny_two=mochi cat"], ["both called", "mochi cat"]),
    (["--lora", "tiny_one", "--method", "switch*w_switch"], ["both choose", "time"]),
    (["--lora", "tiny_one", "--method", "tara*composite"], ["composite", "more than a gate"]),
    (["--lora", "tiny_one", "--method", "tara*"], ["unknown method ''"]),
    (["--lora", "tiny_one", "--method", "switch*tara", "--set", "every=2"], ["switch.every"]),
    (["--frobnicate"], ["--frobnicate", "--help"]),
]


@pytest.mark.parametrize(("flags", "words"), GIVEN, ids=lambda v: " ".join(v))
def test_a_bad_flag(generate: Run, box: Path, flags: list[str], words: list[str]) -> None:
    before = sorted(box.rglob("*"))
    refused(generate("mochi cat", *flags), *words)
    assert sorted(box.rglob("*")) == before


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("cat <lora:nobody:1>", ["nobody"]),
        ("cat <lora:tiny_one:x>", ["'x'"]),
        ("cat <lora:tiny_one", ["not closed"]),
        ("cat <lora:tiny_one:1:lbw=IN02>", ["lbw", "not supported yet"]),
        ("cat <lora:tiny_one:1> <lora:tiny_one:2>", ["2 tags"]),
        ("cat <hypernet:x:1>", ["hypernet"]),
        ("cat \udcff", ["UTF-8"]),
    ],
)
def test_a_bad_prompt(generate: Run, prompt: str, words: list[str]) -> None:
    refused(generate(prompt), *words)


def test_a_tag_and_a_flag_for_the_same_adapter(generate: Run) -> None:
    refused(generate("mochi cat <lora:tiny_one:1>", "--lora", "tiny_one"), "tiny_one", "2 times")


def test_a_truncated_adapter(generate: Run, library: Path, tmp_path: Path) -> None:
    whole = (library / "tiny_two.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-40])
    refused(generate("cat", "--lora", "cut.safetensors"), "cut.safetensors")


def test_an_adapter_for_another_base(generate: Run, tmp_path: Path) -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {f"{name}.lora_A.weight": torch.ones(2, 320)}
    factors[f"{name}.lora_B.weight"] = torch.ones(320, 2)
    save_file(factors, tmp_path / "wide.safetensors")
    refused(generate("cat", "--lora", "wide.safetensors"), "wide")


def test_a_broken_model(run: Run, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    refused(run("generate", "cat", "--model", folder), "broken")
    (folder / "model_index.json").write_text("{}")
    refused(run("generate", "cat", "--model", folder), "model_index.json")
    index = json.loads((model / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "KandinskyPipeline"})
    )
    refused(run("generate", "cat", "--model", folder), "KandinskyPipeline")
    (folder / "model_index.json").write_text(json.dumps(index))
    refused(run("generate", "cat", "--model", folder), "broken")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["paint"],
        ["generate"],
        ["adapters"],
        ["adapters", "inspect"],
        ["adapters", "search", "cat"],
        ["methods", "--xml"],
        ["train", "lora"],
        ["train", "lora", "nowhere.yaml"],
        ["replay", "nowhere.png"],
    ],
    ids=" ".join,
)
def test_a_bad_command(run: Run, args: list[str]) -> None:
    refused(run(*args))


def test_a_folder_that_was_made_for_nothing_is_removed(generate: Run, tmp_path: Path) -> None:
    refused(generate("cat", "--out", "a/b/c", "--scheduler", "none"))
    assert not (tmp_path / "a").exists()
