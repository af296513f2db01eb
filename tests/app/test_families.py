"""What the command line and pictures say that differs between families."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from compose.models.detect import FAMILIES
from compose.models.family import Family
from compose.request import Request
from compose_app.commands.generate import generate
from compose_app.infotext import read_infotext
from compose_app.metadata import Recipe, infotext
from tests.app.conftest import Run, parsed
from tests.tiny_flux import tiny_flux

MADE = Recipe(
    request=Request("a cat", guidance=3.5),
    model="model",
    fingerprint="0" * 64,
    adapters=(),
    versions={},
    device="cpu",
    dtype="fp32",
    sampler="FlowMatchEulerDiscreteScheduler",
    sha256="0" * 64,
)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_help_names_the_schedulers_of_every_family(family: type[Family]) -> None:
    (option,) = (p for p in generate.params if p.name == "scheduler")
    says = option.to_info_dict()["help"]
    said = dict(part.split(": ") for part in says.split(". ")[1].split("; "))
    known = {name: solvers for names, solvers in said.items() for name in names.split(", ")}
    assert known[family.name].split(", ") == list(family.schedulers)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_schedulers_of_every_family_have_the_names_that_other_programs_know(
    family: type[Family],
) -> None:
    names = {"ddim": "DDIM", "euler": "Euler", "dpm++": "DPM++ 2M", "heun": "Heun"}
    for name, kind in family.schedulers.items():
        recipe = replace(MADE, sampler=kind.__name__)
        assert infotext(recipe).settings["Sampler"] == names[name]
        assert recipe.to_json()["sampler"] == kind.__name__


@pytest.mark.parametrize(
    ("guidance", "true_cfg", "distilled", "expected"),
    [
        (7.0, None, False, ("7", None)),
        (0.0, None, False, ("0", None)),
        (3.5, None, True, ("1", "3.5")),
        (2.25, 4.0, True, ("4", "2.25")),
        (0.0, None, True, ("1", None)),  # schnell
        (0.0, 4.0, True, ("4", None)),
    ],
)
def test_both_scales_of_a_distilled_model_are_written_as_forge_does(
    guidance: float, true_cfg: float | None, distilled: bool, expected: tuple[str, str | None]
) -> None:
    recipe = replace(MADE, request=Request("a cat", guidance=guidance, true_cfg=true_cfg))
    said = infotext(recipe, distilled=distilled).settings
    assert (said["CFG scale"], said.get("Distilled CFG Scale")) == expected
    assert not any("True" in name for name in said)


@pytest.mark.parametrize("schnell", [False, True])
def test_a_picture_of_flux_carries_its_scales(run: Run, tmp_path: Path, schnell: bool) -> None:
    tiny_flux(schnell=schnell).save_pretrained(tmp_path / "flux")
    flags = ("--model", tmp_path / "flux", "--size", "48x32", "--steps", 1, "--seed", 1)
    path = parsed(run("generate", "cat", *flags, "--json"))["images"][0]["path"]
    with Image.open(path) as image:
        texts = dict(image.info)
    said = read_infotext(texts["parameters"]).settings
    assert (said["Sampler"], said["CFG scale"]) == ("Euler", "1")
    assert said.get("Distilled CFG Scale") == (None if schnell else "3.5")
    recipe = json.loads(texts["lora_compose"])
    assert recipe["sampler"] == "FlowMatchEulerDiscreteScheduler"
    assert recipe["request"]["guidance"] == (0.0 if schnell else 3.5)
