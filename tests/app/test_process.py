"""The installed program, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

PROGRAM = Path(sysconfig.get_path("scripts")) / "lora-compose"
HEAVY = ("torch", "diffusers", "transformers", "peft", "gradio", "numpy", "PIL")

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="lora-compose is not installed")


def loaded(*args: str) -> set[str]:
    """Heavy packages that a command has imported when it is done."""
    code = (
        "import sys\nfrom compose_app.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as left:\n    assert left.code == 0, left\n"
        f"print('\\n' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("args", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    assert loaded(*args) == set()


@pytest.mark.parametrize("args", [["methods"], ["adapters", "list"]])
def test_listing_imports_torch_at_most(args: list[str]) -> None:
    assert not loaded(*args) & {"diffusers", "transformers", "peft", "gradio"}


def test_generate_says_nothing_but_results(model: Path, library: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LORA_COMPOSE_ADAPTERS": str(library), "OMP_NUM_THREADS": "1"}
    flags = ["--lora", "tiny_one", "--model", str(model), "--steps", "1", "--json", "--quiet"]
    done = subprocess.run(
        [PROGRAM, "generate", "mochi cat", "--seed", "1", *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["images"]) == 1


def test_ctrl_c_keeps_finished_pictures(model: Path, tmp_path: Path) -> None:
    flags = ["--model", str(model), "--steps", "5", "--seed", "1", "--count", "5000"]
    running = subprocess.Popen(
        [PROGRAM, "generate", "cat", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout is not None
    first = running.stdout.readline().strip()
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    rest, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted: ") and "Traceback" not in errors
    told = {tmp_path / line for line in [first, *rest.splitlines()]}
    assert told == set((tmp_path / "out").iterdir())


def test_a_reader_that_leaves_early() -> None:
    command = f"{PROGRAM} methods | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 141) and done.stderr == ""
    assert done.stdout.startswith("merge: ")
