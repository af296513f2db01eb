"""Single flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.errors import RequestError
from compose.request import AdapterUse
from compose_app.flags import read_lora, read_size


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("mochi", AdapterUse("mochi")),
        ("mochi:0.8", AdapterUse("mochi", 0.8)),
        ("mochi:-.5:0", AdapterUse("mochi", -0.5, 0.0)),
        ("styles/ink:2", AdapterUse("styles/ink", 2.0)),
        ("C:\\loras\\a.safetensors", AdapterUse("C:\\loras\\a.safetensors")),
        ("C:\\loras\\a.safetensors:0.5", AdapterUse("C:\\loras\\a.safetensors", 0.5)),
        ("a:1/b.safetensors:2:3", AdapterUse("a:1/b.safetensors", 2.0, 3.0)),
    ],
)
def test_an_adapter_with_its_weights(text: str, use: AdapterUse) -> None:
    assert read_lora(text) == use


def test_a_file_that_exists_wins_over_a_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:1").touch()
    assert read_lora("a:1") == AdapterUse("a:1")
    assert read_lora("a:1:0.5") == AdapterUse("a:1", 0.5)
    assert read_lora("a:1:0.5:0.2") == AdapterUse("a:1", 0.5, 0.2)


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:b", "a:1:", "a:1:2:3", "a:0x1", "a:1_0"])
def test_no_adapter(text: str) -> None:
    with pytest.raises(RequestError, match="--lora"):
        read_lora(text)


def test_size() -> None:
    size = read_size("640X48")
    assert size is not None and (size.width, size.height) == (640, 48)
    assert read_size(None) is None
