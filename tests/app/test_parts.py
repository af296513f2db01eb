"""Files, console, grid and identity on their own."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from compose.errors import RequestError
from compose.models.folder import deciding_files
from compose_app import console, files, identity
from compose_app.grid import Cell, draw_grid, fitted, shown_size


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    made = [files.write_new(tmp_path, "7-merge", ".png", bytes([k])) for k in range(3)]
    assert [p.name for p in made] == ["7-merge.png", "7-merge-2.png", "7-merge-3.png"]
    assert [p.read_bytes() for p in made] == [b"\0", b"\1", b"\2"]
    assert sorted(tmp_path.iterdir()) == sorted(made)


def test_file_systems_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", link)
    made = [files.write_new(tmp_path, "a", ".png", b"x") for _ in range(2)]
    assert [p.name for p in made] == ["a.png", "a-2.png"]
    assert sorted(tmp_path.iterdir()) == sorted(made)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(RequestError, match="No space left"):
        files.write_new(tmp_path, "a", ".png", b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_was_there_stays(tmp_path: Path) -> None:
    with files.output_folder(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    assert not (tmp_path / "a").exists() and tmp_path.is_dir()
    with files.output_folder(tmp_path / "c") as folder:
        (folder / "x").touch()
    assert (tmp_path / "c" / "x").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(RequestError, match="Permission denied"), files.output_folder(tmp_path):
        pass


def test_progress_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with console.Screen().progress("picture", 2) as each:
        for done in (1, 2, 3, 1, 2, 3):
            each(done, 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "picture 1/2: step 3/3",
        "picture 2/2: step 3/3",
    ]
    monkeypatch.setattr(console, "_PAUSE", 0.0)
    with console.Screen().progress("picture", 1) as each:
        each(1, 3)
    assert "step 1/3" in capsys.readouterr().err


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, results = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", results)
    screen = console.Screen()
    with screen.progress("picture", 2) as each:
        for _ in range(2):
            for done in range(1, 4):
                time.sleep(0.12)  # the bar is drawn ten times a second
                each(done, 3)
            screen.result("out/a.png")
    assert results.getvalue() == "out/a.png\nout/a.png\n"
    assert "picture 2/2" in terminal.getvalue() and "6/6" in terminal.getvalue()


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    screen = console.Screen(quiet=True)
    screen.note("by the way")
    for _ in range(2):
        screen.warn("look out")
    with screen.progress("picture", 1) as each:
        each(1, 1)
    assert capsys.readouterr().err == "warning: look out\n"
    assert screen.warnings == ["look out"]


def test_a_closed_pipe_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise BrokenPipeError

    assert console.guarded(work) == console.PIPE_CLOSED
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((32, 32), (192, 192)),
        ((128, 128), (256, 256)),
        ((128, 64), (256, 128)),
        ((200, 100), (200, 100)),
        ((512, 512), (512, 512)),
        ((1024, 768), (512, 384)),
        ((4096, 8), (512, 1)),
    ],
)
def test_size_of_a_cell(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(size) == shown


def test_a_grid_keeps_pixels_and_places() -> None:
    colours = {(r, c): (60 * r + 20, 60 * c + 20, 99) for r in range(2) for c in range(3)}
    cells = [Cell(r, c, Image.new("RGB", (200, 240), colour)) for (r, c), colour in colours.items()]
    sheet = draw_grid(
        cells, rows=["seed 1", "seed 22"], columns=["a", "b", "c"], title="cat " * 200
    )
    gap = 10
    right, bottom = sheet.width - gap, sheet.height - gap
    for (r, c), colour in colours.items():
        x, y = right - (2 - c) * (200 + gap), bottom - (1 - r) * (240 + gap)
        cell = sheet.crop((x - 200, y - 240, x, y))
        assert cell.getcolors() == [(200 * 240, colour)]
        frame = sheet.crop((x - 201, y - 1, x - 200, y + 1))
        assert frame.getcolors() == [(2, (255, 255, 255))]
    heading = sheet.crop((0, 0, sheet.width, 40))
    assert len(heading.getcolors(9999) or []) > 1  # a title was drawn
    edge = sheet.crop((sheet.width - gap, 0, sheet.width, sheet.height))
    assert edge.getcolors() == [(gap * sheet.height, (255, 255, 255))]  # and cut off


def test_long_labels_are_cut_off() -> None:
    font = ImageFont.load_default(16)
    assert fitted("a\n b", font, 500) == "a b"
    cut = fitted("mochi " * 40, font, 100)
    assert cut.endswith("...") and font.getlength(cut) <= 100


def fingerprint(folder: Path) -> str:
    return identity.model_fingerprint(deciding_files(folder))


def test_fingerprint_sees_every_byte_and_no_path(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text('{"unet": ["diffusers", "X"]}')
        (tmp_path / name / "unet" / "w.safetensors").write_bytes(bytes(1000))
    (tmp_path / "b" / "README.md").write_text("notes do not count")
    (tmp_path / "b" / "other").mkdir()
    (tmp_path / "b" / "other" / "w.safetensors").write_bytes(b"nor does what stands beside")
    (tmp_path / "c" / "unet" / "w.safetensors").write_bytes(bytes(999) + b"\1")
    a, b, c = (fingerprint(tmp_path / name) for name in ("a", "b", "c"))
    assert a == b != c and len(a) == 64


def test_fingerprint_samples_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_WHOLE", 1000)
    monkeypatch.setattr(identity, "_SAMPLE", 8)
    (tmp_path / "model_index.json").write_text("{}")
    file = tmp_path / "w.safetensors"
    seen = set()
    for place in (0, 5000, 9999):
        content = bytearray(10_000)
        spot = next(i for i in _sampled(10_000) if abs(i - place) < 200)
        content[spot] = 1
        file.write_bytes(content)
        seen.add(fingerprint(tmp_path))
    file.write_bytes(bytes(10_001))
    assert len(seen | {fingerprint(tmp_path)}) == 4


def _sampled(size: int) -> list[int]:
    return [(size - 8) * index // 63 for index in range(64)]
