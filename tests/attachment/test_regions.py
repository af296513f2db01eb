"""Placed adapters in a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import compose
from compose.adapters.library import AdapterLibrary
from compose.errors import RequestError
from compose.fusion import method
from compose.fusion.merge import Merge
from compose.fusion.regional import Regional
from compose.regions import Box
from compose.types import Size
from tests import engine
from tests.attachment import pipelines as tiny
from tests.attachment.pipelines import WEIGHTS
from tests.families import FAMILIES

REGIONS = {"a0": engine.PLACES["a0"], "a1": Box(0.3, 0.5, 1, 1)}


def attach(pipe: Any, paths: list[Path], chosen: Any, regions: Any = REGIONS) -> compose.Attached:
    named = {str(path): regions[path.stem] for path in paths if path.stem in regions}
    return tiny.attach(pipe, paths, chosen, regions=named)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize(
    "chosen",
    [
        Regional(feather=0.1),
        Regional(isolate=0.5, text="places"),
        method("switch*regional").parse({"switch.every": 1}),
    ],
)
def test_a_pipeline_gives_what_our_own_loop_gives(tmp_path, family, chosen) -> None:
    """Bit for bit; a second picture of another shape has its own masks."""
    tiny_family = FAMILIES[family]
    paths = tiny_family.files(tmp_path)
    composer = engine.composer(pipe=tiny_family.build())
    sizes = (Size(48, 32), Size(32, 64))
    asked = [
        tiny_family.request(paths, WEIGHTS, chosen, regions=REGIONS, size=size) for size in sizes
    ]
    with composer:
        expected = [engine.latents(composer, one) for one in asked]
    pipe = composer.family.pipe
    with attach(pipe, paths, chosen) as attached:
        got = [engine.stock(pipe, one) for one in asked]
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
    assert attached.warnings == []


@pytest.mark.parametrize("kind", [*tiny.KINDS, "xl_controlnet_inpaint"])
def test_full_regions_are_a_merge(tmp_path, kind) -> None:
    pipe = tiny.pipeline(kind)
    paths = FAMILIES["sdxl" if kind in tiny.XL_KINDS else "sd15"].files(tmp_path)
    everywhere = dict.fromkeys(("a0", "a1", "a2"), engine.EVERYWHERE)
    with tiny.attach(pipe, paths, Merge()):
        expected = tiny.call(kind, pipe)
    with attach(pipe, paths, Regional(overlap="sum"), everywhere):
        assert torch.equal(tiny.call(kind, pipe), expected)
    with attach(pipe, paths, Regional()):
        assert (tiny.call(kind, pipe) - expected).abs().max() > 1e-3


def test_regions_for_nobody_and_of_no_use_are_refused(tmp_path) -> None:
    pipe = tiny.pipeline("text")
    paths = engine.files(tmp_path, ranks=(2, 4))
    first = str(paths[0])
    box = Box(0, 0, 0.5, 1)
    with pytest.raises(RequestError, match="'a9', which is no adapter of this request"):
        tiny.attach(pipe, paths, Regional(), regions={"a9": box})
    with pytest.raises(RequestError, match="method regional needs to know where"):
        tiny.attach(pipe, paths, Regional())
    with pytest.raises(RequestError, match="a0 has a region, but method merge works on the whole"):
        tiny.attach(pipe, paths, Merge(), regions={first: box})
    use = compose.AdapterUse(first, region=box)
    with compose.attach(pipe, [use], Regional(), library=AdapterLibrary(())) as attached:
        tiny.call("text", pipe)
    assert attached.calls.forwards == 4
