"""The commands that only tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compose.errors import AdapterFormatError
from compose.fusion import methods
from tests.app.conftest import Run, parsed, refused


def test_methods_in_json(run: Run) -> None:
    data = parsed(run("methods", "--json"))
    assert [entry["name"] for entry in data] == list(methods()) and data[0]["name"] == "merge"
    for entry in data:
        assert list(entry) == ["name", "title", "source", "needs", "fields"]
        assert all(
            list(field) == ["name", "type", "default", "low", "high", "help"]
            for field in entry["fields"]
        )
    (switch,) = [entry for entry in data if entry["name"] == "switch"]
    every = next(field for field in switch["fields"] if field["name"] == "every")
    assert (every["type"], every["low"]) == ("int", 1)


def test_methods_in_words(run: Run) -> None:
    text = run("methods").stdout
    assert all(f"{name}: {kind.title}" in text for name, kind in methods().items())
    assert "every=" in text and "paper or reference" in text
    assert "time: switch, w_switch" in text.splitlines()[-1] and "place: regional" in text


def test_adapters_list(run: Run) -> None:
    data = parsed(run("adapters", "list", "--json"))
    found = {entry["name"]: entry for entry in data}
    one = found["tiny_one"]
    assert list(one) == ["name", "path", "kind", "triggers", "base", "rank", "sites"]
    assert one["triggers"] == ["mochi"] and one["rank"] == 3 and one["sites"] == 14
    assert {"tiny_two", "tiny_three"} <= set(found)
    lines = run("adapters", "list").stdout.splitlines()
    assert lines[0].split() == ["name", "kind", "triggers", "base", "rank", "sites"]
    assert any(line.startswith("tiny_two") for line in lines)


def test_adapters_list_warns_of_broken_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.safetensors").write_bytes(b"no")
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(tmp_path / "bad"))
    result = run("adapters", "list", "--json")
    assert all(entry["name"] != "broken" for entry in parsed(result))
    assert result.stderr.startswith("warning: ") and "broken.safetensors" in result.stderr


def test_inspect_tries_every_file(run: Run, library: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    good = library / "tiny_one.safetensors"
    result = run("adapters", "inspect", "bad.safetensors", good, "tiny_two", "--json")
    assert result.exit_code == 2
    bad, one, two = (json.loads(line) for line in result.stdout.splitlines())
    assert bad["path"] == "bad.safetensors" and bad["error"]
    assert (
        one["name"] == "tiny_one"
        and one["layout"] == "kohya"
        and len(one["hashes"]["AutoV3"]) == 12
    )
    assert two["name"] == "tiny_two" and two["layout"] != "kohya"
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "bad.safetensors" in line


def test_inspect_in_words(run: Run) -> None:
    result = run("adapters", "inspect", "tiny_one")
    assert result.exit_code == 0
    assert "name:           tiny_one" in result.stdout and "mochi" in result.stdout


def test_models(run: Run) -> None:
    embedded = parsed(run("models", "--json"))[0]
    assert embedded["name"] == "embedded" and Path(embedded["path"]).name == "weights"
    assert embedded["available"] is (embedded["family"] is not None)
    assert "embedded" in run("models").stdout


def test_models_of_the_hub_cache(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    folder = Path("cache/models--some--thing/snapshots/abc")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(model)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "cache")
    (found,) = [m for m in parsed(run("models", "--json")) if m["name"] == "some/thing"]
    assert found == {
        "name": "some/thing",
        "family": "sd15",
        "path": str(folder),
        "available": True,
        "reason": "",
    }


def test_doctor(run: Run) -> None:
    data = parsed(run("doctor", "--json"))
    keys = ["versions", "device", "kernels", "attention", "memory", "model", "adapters"]
    assert list(data) == keys
    assert {"python", "torch", "diffusers", "xformers", "gradio"} <= set(data["versions"])
    assert {"name": "gated_lora/reference", "available": True, "reason": ""} in data["kernels"]
    assert data["attention"]["backend"].startswith("sdpa/")
    backends = {b["name"]: b for b in data["attention"]["backends"]}
    assert {"native", "_native_math", "xformers", "sage"} <= set(backends)
    assert backends["native"]["available"] and backends["_native_math"]["available"]
    assert all(b["available"] is (not b["reason"]) for b in backends.values())
    ways = {way["name"]: way for way in data["memory"]}
    assert {"offload model", "quantize bnb4", "denoiser .gguf"} <= set(ways)
    assert all(way["available"] is (not way["reason"]) for way in ways.values())
    assert data["adapters"]["count"] >= 3 and data["adapters"]["broken"] == []
    assert data["model"]["name"] == "embedded"
    text = run("doctor").stdout
    assert "gated_lora/reference: works" in text and "adapters: " in text


def test_train_hands_over(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compose.train.lora

    def train_file(path, *, model, out, device, overrides, progress):  # type: ignore[no-untyped-def]
        progress(1, 7, 0.5)
        wanted = {"steps": 7, "tara": True, "lr": "2e-3"}
        assert (path, device, overrides) == (Path("cat.yaml"), "cpu", wanted)
        return out / "cat.safetensors"

    monkeypatch.setattr(compose.train.lora, "train_file", train_file)
    flags = ("--out", "here", "--steps", 7, "--device", "cpu", "--model", model, "--json")
    flags += ("--set", "tara=true", "--set", "steps=9", "--set", "lr=2e-3")
    assert parsed(run("train", "lora", "cat.yaml", *flags)) == {"path": "here/cat.safetensors"}


def test_train_without_peft(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import compose_app.commands.train as command

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    refused(run("train", "lora", "cat.yaml"), "lora-compose[train]")


def test_help_and_version(run: Run) -> None:
    for args in ([], ["generate"], ["replay"], ["adapters"], ["adapters", "inspect"], ["train"]):
        result = run(*args, "--help")
        assert result.exit_code == 0 and "Usage: " in result.stdout and result.stderr == ""
    assert "lora-compose" in run("--version").stdout


def test_errors_stay_on_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import compose.adapters.library as library

    def refuse(*args: object) -> None:
        raise AdapterFormatError("a name with\nline breaks\r\n and \x1b[31mcolour")

    monkeypatch.setattr(library.AdapterLibrary, "find", refuse)
    line = refused(run("generate", "cat", "--lora", "x"))
    assert line == "error: a name with line breaks and ?[31mcolour"
