"""``generate`` from flags to files, on a tiny model of random weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from compose.result import Progress
from tests.app.conftest import Run, parsed

ONE = ("mochi cat", "--lora", "tiny_one")


def pixels(path: str | Path) -> str:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return hashlib.sha256(image.tobytes()).hexdigest()


def test_json_holds_what_the_documentation_says(generate: Run) -> None:
    result = generate(*ONE, "--lora", "tiny_two:0.5:0.1", "--count", 2, "--json")
    data = parsed(result)
    assert list(data) == ["images", "method", "model", "adapters", "calls", "seconds", "warnings"]
    assert [list(image) for image in data["images"]] == [["path", "seed", "sha256"]] * 2
    assert [image["seed"] for image in data["images"]] == [5, 6]
    assert data["method"] == "merge" and data["model"].endswith("tiny")
    one, two = data["adapters"]
    assert one == {"name": "tiny_one", "weight": 1.0, "sites": 14, "ignored": 0}
    assert two == {"name": "tiny_two", "weight": 0.5, "sites": 11, "ignored": 0}
    assert data["calls"] == {"forwards": 4, "rows": 8, "cached_rows": 0, "backwards": 0}
    assert set(data["seconds"]) == {"load", "denoise", "decode", "total"}
    assert all(value > 0 for value in data["seconds"].values())
    assert data["warnings"] == []
    assert result.stdout.count("\n") == 1


def test_the_hash_is_of_the_pixels_in_the_file(generate: Run) -> None:
    for image in parsed(generate(*ONE, "--count", 2, "--json"))["images"]:
        assert pixels(image["path"]) == image["sha256"]


def test_stdout_carries_the_paths_and_nothing_else(generate: Run) -> None:
    result = generate(*ONE, "--count", 2)
    assert result.exit_code == 0
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert sorted(paths) == sorted(Path("out").iterdir())
    assert [path.name[:8] for path in paths] == ["5-merge-", "6-merge-"]
    assert "picture 2/2: step 2/2" in result.stderr


def test_quiet_leaves_stderr_empty(generate: Run) -> None:
    assert generate(*ONE, "--quiet").stderr == ""


def test_the_same_request_twice_gives_the_same_bytes_and_overwrites_nothing(generate: Run) -> None:
    first, second = (Path(generate(*ONE).stdout.strip()) for _ in range(2))
    assert first != second and second.stem == first.stem + "-2"
    assert first.read_bytes() == second.read_bytes()


def test_pictures_do_not_depend_on_how_many_are_made(generate: Run) -> None:
    both = parsed(generate(*ONE, "--count", 2, "--json"))["images"]
    last = parsed(generate(*ONE, "--seed", 6, "--json"))["images"]
    assert both[1]["sha256"] == last[0]["sha256"] != both[0]["sha256"]


def test_every_flag_changes_the_picture(generate: Run) -> None:
    variants = [
        (),
        ("--lora", "tiny_two"),
        ("--lora", "tiny_two:0.5"),
        ("--lora", "tiny_two", "--method", "composite"),
        ("--lora", "tiny_two", "--method", "switch", "--set", "every=1"),
        ("--steps", 3),
        ("--guidance", 3),
        ("--negative", "dog"),
        ("--scheduler", "euler"),
        ("--dtype", "bf16"),
        ("--seed", 9),
    ]
    found = [parsed(generate(*ONE, *v, "--json"))["images"][0]["sha256"] for v in variants]
    assert len(set(found)) == len(variants)


def test_tags_and_flags_mean_the_same(generate: Run) -> None:
    flags = generate("mochi cat", "--lora", "tiny_one:0.8:0.3", "--lora", "tiny_two", "--json")
    tags = generate("mochi cat <lora:tiny_one:0.3:0.8> <lora:tiny_two:1>", "--json")
    assert parsed(flags)["images"][0]["sha256"] == parsed(tags)["images"][0]["sha256"]


def test_the_text_encoder_weight_counts(generate: Run) -> None:
    with_text, without = (
        parsed(generate("mochi cat", "--lora", f"tiny_one:1:{w}", "--json")) for w in (1, 0)
    )
    assert with_text["images"][0]["sha256"] != without["images"][0]["sha256"]


def test_an_adapter_can_be_a_file(generate: Run, library: Path) -> None:
    by_name = parsed(generate(*ONE, "--json"))
    by_path = parsed(generate("mochi cat", "--lora", f"{library}/tiny_one.safetensors:1", "--json"))
    assert by_name["images"][0]["sha256"] == by_path["images"][0]["sha256"]
    assert by_path["adapters"][0]["name"] == "tiny_one"


def test_size_is_that_of_the_picture(generate: Run) -> None:
    path = generate(*ONE, "--size", "48x24").stdout.strip()
    with Image.open(path) as image:
        assert image.size == (48, 24)


def test_a_fresh_seed_is_told_and_kept(run: Run, model: Path) -> None:
    result = run("generate", "cat", "--model", model, "--steps", 1, "--json")
    seed = parsed(result)["images"][0]["seed"]
    assert f"seed {seed}" in result.stderr.splitlines()
    with Image.open(parsed(result)["images"][0]["path"]) as image:
        assert json.loads(image.info["lora_compose"])["request"]["seeds"] == [seed]


def test_a_missing_trigger_is_a_warning(generate: Run) -> None:
    result = generate("cat", "--lora", "tiny_one", "--json")
    (warning,) = parsed(result)["warnings"]
    assert "tiny_one" in warning and "mochi" in warning
    assert f"warning: {warning}" in result.stderr.splitlines()


def test_an_interruption_keeps_what_is_finished(
    generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compose_app.studio import Studio

    pictures = Studio.pictures

    def interrupted(self, prepared, label, folder, progress):  # type: ignore[no-untyped-def]
        seen = iter(range(100))

        def tell(where: Progress) -> None:
            if next(seen) == 3:  # the last step of the second picture
                raise KeyboardInterrupt
            progress(where)

        return pictures(self, prepared, label, folder, tell)

    monkeypatch.setattr(Studio, "pictures", interrupted)
    result = generate(*ONE, "--count", 3, "--json", "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: 1 of 3 pictures are finished and kept\n"
    (image,) = json.loads(result.stdout)["images"]
    assert [path.name for path in Path("out").iterdir()] == [Path(image["path"]).name]
    assert pixels(image["path"]) == image["sha256"]


def test_our_own_faults_come_with_a_traceback(
    generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compose.composer import Composer

    def broken(*args: object, progress: Progress) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Composer, "images", broken)
    result = generate(*ONE)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr and "a bug" in result.stderr
    assert not Path("out").exists()


def test_too_little_memory_is_told_in_words(generate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from compose.composer import Composer

    def greedy(*args: object, progress: Progress) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(Composer, "images", greedy)
    result = generate(*ONE)
    assert result.exit_code == 2 and "--size" in result.stderr


def test_a_grid_has_every_cell(generate: Run) -> None:
    flags = ("--lora", "tiny_two", "--grid", "merge,switch", "--set", "every=1", "--count", 2)
    data = parsed(generate(*ONE, *flags, "--json"))
    columns = ["base", "tiny_one", "tiny_two", "merge", "switch"]
    assert data["grid"]["columns"] == columns and data["method"] == "merge,switch"
    assert [(i["column"], i["seed"]) for i in data["images"]] == [
        (column, seed) for column in columns for seed in (5, 6)
    ]
    assert len({i["sha256"] for i in data["images"]}) == 10
    sheet = Image.open(data["grid"]["path"]).convert("RGB")
    for image in data["images"]:
        with Image.open(image["path"]) as single:
            big = single.convert("RGB").resize((192, 192), Image.Resampling.NEAREST)
        assert big.tobytes() in _squares(sheet, 192), image


def _squares(sheet: Image.Image, side: int) -> set[bytes]:
    """Every square of a grid, found by its white frame."""
    width, height = sheet.size
    gap = 10
    lefts = range(width - gap - side, 0, -(side + gap))
    tops = range(height - gap - side, 0, -(side + gap))
    return {sheet.crop((x, y, x + side, y + side)).tobytes() for x in lefts for y in tops}


def test_a_grid_is_the_same_as_single_requests(generate: Run) -> None:
    grid = parsed(generate(*ONE, "--grid", "all", "--json"))["images"]
    by_column = {image["column"]: image["sha256"] for image in grid}
    merged = parsed(generate(*ONE, "--json"))["images"][0]["sha256"]
    bare = parsed(generate("mochi cat", "--json"))["images"][0]["sha256"]
    assert by_column["merge"] == by_column["tiny_one"] == merged
    assert by_column["base"] == bare


def test_grid_all_leaves_out_what_cannot_run(generate: Run) -> None:
    data = parsed(generate("cat", "--grid", "all", "--json"))
    assert data["grid"]["columns"] == ["base", "merge"]


def test_grid_all_says_which_methods_refuse(generate: Run) -> None:
    with_word = parsed(generate(*ONE, "--grid", "all", "--json"))
    assert "w_switch" in with_word["grid"]["columns"]
    without = parsed(generate("a dog", "--lora", "tiny_one", "--grid", "all", "--json"))
    assert "w_switch" not in without["grid"]["columns"]
    assert any("w_switch is left out: " in text for text in without["warnings"])
    alone = generate("a dog", "--lora", "tiny_one", "--grid", "w_switch")
    assert alone.exit_code == 2 and "needs the trigger words" in alone.stderr
