"""A file imports its own floor and lower ones only; heavy packages stay where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = (
    ("errors", "whole", "lines", "pools", "kernels", "world"),
    ("types",),
    (
        *("gate", "slot", "regions", "adapters", "attention", "text", "models", "guidance"),
        "device",
    ),
    ("layers", "train", "method", "needs", "product"),
    ("run", "passes", "request", "fusion", "prompt"),
    ("composer", "starting", "result", "quick", "wording", "attachment", "explain"),
    ("app", "workflows", "evaluate"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# Packages that only the named places may import.
KEEPERS = {
    "diffusers": (
        *("compose/models", "compose/attachment", "compose/train", "compose/evaluate"),
        "app/doctor.py",
    ),
    "transformers": ("compose/models", "compose/train", "compose/evaluate", "app/doctor.py"),
    "peft": ("compose/train", "compose/evaluate", "app/doctor.py"),
    "open_clip": ("compose/evaluate",),
    "gradio": ("app",),
    "click": ("app",),
    "yaml": ("compose/world", "compose/train", "compose/evaluate", "workflows", "app"),
}


def sources() -> list[Path]:
    return sorted(p for f in ("compose", "app", "workflows") for p in (ROOT / f).rglob("*.py"))


def part(path: Path) -> str:
    """The floor's name of a file: "gate", "layers", "app" ..."""
    relative = path.relative_to(ROOT)
    if relative.parts[0] != "compose":
        return relative.parts[0]
    return relative.parts[1].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Modules that a file imports when it runs; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(n for statement in node.body for n in ast.walk(statement))
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_its_own_floor_and_lower_ones(path: Path) -> None:
    here = part(path)
    if here == "__init__":
        return  # the public names
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top in ("compose_app", "compose_workflows"):
            target = top.removeprefix("compose_")
        elif top == "compose":
            target = rest.split(".")[0]
        else:
            continue
        if target in ("__version__",):
            continue
        assert FLOOR[target] <= FLOOR[here], f"{here} (floor {FLOOR[here]}) imports {name}"
    if here in ("kernels", "world"):
        ours = [n for n in imports(path) if n.startswith("compose.")]
        allowed = (f"compose.{here}", "compose.errors")
        assert all(n.startswith(allowed) for n in ours), ours


@pytest.mark.parametrize("package", KEEPERS)
def test_a_heavy_package_is_imported_in_its_place_only(package: str) -> None:
    users = {
        str(p.relative_to(ROOT))
        for p in sources()
        if any(n.split(".")[0] == package for n in imports(p))
    }
    assert all(u.startswith(KEEPERS[package]) for u in users), users


def test_every_floor_is_named_and_there() -> None:
    assert {part(p) for p in sources()} - {"__init__"} == set(FLOOR)


def test_the_table_in_the_documentation_is_this_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d) \| (.+) \|$", text, re.MULTILINE)
    told = {int(number): set(re.findall(r"`(\w+)`", names)) for number, names in rows}
    assert told == {number: set(names) for number, names in enumerate(FLOORS)}


def test_importing_compose_is_light() -> None:
    code = (
        "import sys, compose; heavy = {'torch', 'diffusers', 'transformers', 'gradio',"
        " 'open_clip', 'triton',"
        " 'ray', 'peft', 'click'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_can_be_read_in_one_sitting() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in sources()
        if (n := len(p.read_text().splitlines())) > 300
    }
    assert not long, long


def test_public_names_are_sorted_and_there() -> None:
    import compose

    assert compose.__all__ == sorted(compose.__all__)
    assert all(hasattr(compose, name) for name in compose.__all__)
