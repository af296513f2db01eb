"""docs/add_a_family.md, followed to the letter: its files are made in memory, its diffs applied and
its family registered. Then its tests, the contract of every method and the list of diffusers' names
run over it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from compose.adapters import bases
from compose.adapters.formats import load_adapter
from compose.errors import AdapterMismatchError, ModelError
from compose.models import detect, source
from compose.models.loading import load
from compose.models.options import LoadOptions
from tests import families
from tests.app import test_families as command_line
from tests.attention import explicit, runs
from tests.contract import test_methods as contract
from tests.guide import ROOT, module, module_name, read_guide
from tests.tiny import random_adapter_file, tiny_pipeline

if (ROOT / "compose" / "models" / "pixart.py").exists():
    pytest.skip("the guide has been followed; it needs another family", allow_module_level=True)

GUIDE = read_guide(ROOT / "docs" / "add_a_family.md")
TABLES: dict[str, tuple[tuple[ModuleType, str], ...]] = {
    "compose/models/detect.py": ((detect, "FAMILIES"),),
    "compose/adapters/bases.py": ((bases, "LABELS"), (bases, "_WRITTEN")),
    "app/commands/generate.py": ((command_line, "generate"),),
    "tests/families.py": ((families, "FAMILIES"), (runs, "FAMILIES")),
    "tests/attention/explicit.py": ((explicit, "KINDS"),),
}
"""What of the changed files the rest of the package sees, and where."""


def follow(path: str, made: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Put one file of the guide in its place."""
    if path in GUIDE.new:
        patch.setitem(sys.modules, module_name(path), made)
    for home, table in TABLES.get(path, ()):
        patch.setattr(home, table, getattr(made, table))


def modules() -> dict[str, ModuleType]:
    """The guide's files as modules; each is made where those before it are in their places."""
    found: dict[str, ModuleType] = {}
    with pytest.MonkeyPatch.context() as patch:
        for path, text in GUIDE.files.items():
            found[path] = module(path, text)
            follow(path, found[path], patch)
    return found


MODULES = modules()
FAMILY = MODULES["compose/models/pixart.py"].PixArtSigma
NAMES = MODULES["tests/models/test_diffusers_names.py"]
TINY = MODULES["tests/families.py"].FAMILIES["pixart"]


@pytest.fixture(autouse=True)
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, made in MODULES.items():
        follow(path, made, monkeypatch)


# The guide's own tests.

ORACLES = {
    n: f for n, f in vars(MODULES["tests/models/test_pixart.py"]).items() if n[:5] == "test_"
}
globals().update(ORACLES)


def test_no_test_of_the_guide_is_lost() -> None:
    assert len(ORACLES) > 8 and all(globals()[name] is test for name, test in ORACLES.items())


# What the guide says that runs by itself.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> contract.Setup:
    return contract.Setup(TINY, TINY.build(), TINY.files(tmp_path_factory.mktemp("pixart")))


@pytest.fixture
def tiny(shared: contract.Setup, request: pytest.FixtureRequest) -> Iterator[contract.Setup]:
    if not shared.serves(request.node.callspec.params["name"]):
        pytest.skip("refused, which the contract has a test for")
    yield shared
    shared.close()


CONTRACT = {
    name: test
    for name, test in vars(contract).items()
    if name.startswith("test_") and list(signature(test).parameters) == ["tiny", "name"]
}
globals().update(CONTRACT)


def test_the_whole_contract_is_run() -> None:
    assert len(CONTRACT) > 5 and not CONTRACT.keys() & ORACLES.keys()


CAPTURE = {
    name: test
    for name, test in vars(MODULES["tests/attention/test_capture.py"]).items()
    if name.startswith("test_") and list(signature(test).parameters) == ["name"]
    if any(mark.args == ("name", runs.ALL) for mark in test.pytestmark)
}


@pytest.mark.parametrize("test", CAPTURE.values(), ids=CAPTURE)
def test_attention_is_captured_as_written_out(test: Callable[[str], None]) -> None:
    test("pixart")


def test_the_command_line_knows_its_schedulers() -> None:
    command_line.test_the_help_names_the_schedulers_of_every_family(FAMILY)
    command_line.test_the_schedulers_of_every_family_have_the_names_that_other_programs_know(FAMILY)


@pytest.mark.parametrize(
    "path", [path for kinds, paths in NAMES.ATTRIBUTES if "pixart" in kinds for path in paths]
)
def test_the_pipeline_has_what_the_family_uses(path: str) -> None:
    NAMES.test_a_pipeline_has_what_its_family_uses("pixart", path)


@pytest.mark.parametrize(
    ("path", "arguments"), [case[1:] for case in NAMES.ARGUMENTS if case[0] == "pixart"]
)
def test_methods_take_what_they_are_given(path: str, arguments: list[str] | set[str]) -> None:
    NAMES.test_a_method_takes_what_it_is_given("pixart", path, arguments)


def test_transformers_work_in_bf16() -> None:
    assert FAMILY.half == torch.bfloat16


# What the guide says beside.


def test_test_adapters_reach_every_stream_and_every_text_encoder() -> None:
    family = FAMILY(TINY.build())
    assert TINY.sites.keys() == family.components.keys()
    sites = [
        family.site(component, path, family.components[component].get_submodule(path))
        for component, paths in TINY.sites.items()
        for path in paths
    ]
    assert {s.stream for s in sites if s.component == "transformer"} == {"image", "text", "vector"}
    assert {s.kind for s in sites} == {"linear", "conv"}


def test_files_that_say_so_are_for_it_by_name(tmp_path: Path) -> None:
    pipe, paths = TINY.build(), TINY.sites
    stated = {"ss_base_model_version": "PixArt-Sigma-XL-2-1024-MS"}
    path = random_adapter_file(
        tmp_path / "a.safetensors", layout="diffusers", pipe=pipe, modules=paths, metadata=stated
    )
    parts = {name: getattr(pipe, name) for name in paths}
    assert len(load_adapter(path, parts)[0].factors) == sum(map(len, paths.values()))
    other: dict[str, nn.Module] = {"unet": tiny_pipeline().unet}
    with pytest.raises(AdapterMismatchError, match="is a LoRA for PixArt-Sigma; expected one for"):
        load_adapter(path, other)


@pytest.mark.parametrize(
    "module_path", ["transformer_blocks.0.attn2.to_k", "transformer_blocks.1.attn1.to_v"]
)
def test_files_in_names_that_others_have_too_are_not_refused(
    tmp_path: Path, module_path: str
) -> None:
    """Stable Diffusion 3.5 has such a layer as well."""
    pipe, modules = TINY.build(), {"transformer": [module_path]}
    path = random_adapter_file(
        tmp_path / "a.safetensors", layout="diffusers", pipe=pipe, modules=modules
    )
    adapter, report = load_adapter(path, {"transformer": pipe.transformer})
    assert list(adapter.factors) == [f"transformer.{module_path}"] and not report.unmatched


def test_a_denoiser_in_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers reads PixArt's transformer from folders only."""
    monkeypatch.setattr(source, "need", lambda package, what: None)
    TINY.build().save_pretrained(tmp_path / "pixart")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    options = LoadOptions(denoiser=str(tmp_path / "x.gguf"))
    with pytest.raises(ModelError, match=r"PixArtTransformer2DModel .* so drop --denoiser"):
        load(str(tmp_path / "pixart"), device=torch.device("cpu"), options=options)


@pytest.mark.parametrize("path", GUIDE.files)
def test_its_files_pass_make_check(path: str) -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", path, "-"],
            input=GUIDE.files[path],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
