"""What cannot be attached, and what is said then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from torch import Tensor

import compose
from compose.adapters.library import AdapterLibrary
from compose.attachment.pipelines import KINDS
from compose.errors import (
    AdapterNotFoundError,
    ModelError,
    RequestError,
    ShapeError,
    UnknownMethodError,
)
from compose.fusion import method, methods
from compose.fusion.merge import Merge
from compose.gate import Gate
from compose.guidance import Sides
from compose.method import CompositionMethod, GatedMethod
from compose.run import Pass, Run
from compose.types import Conditioning, Step
from tests import engine
from tests.attachment import pipelines as tiny


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return engine.files(tmp_path_factory.mktemp("adapters"), ranks=(2, 4))


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline("text")


@dataclass(frozen=True, kw_only=True)
class Plain(GatedMethod):
    """All adapters, as they are."""

    name: ClassVar[str] = "plain"
    title: ClassVar[str] = "Plain"
    source: ClassVar[str] = "https://example.org"

    def gate(self, run: Run, step: Step) -> Gate:
        return Gate.all(run.weights)


class Edits(Plain):
    def adjust(self, run: Run, step: Step, latents: Tensor) -> Tensor:
        return latents


class Guides(Plain):
    def fuse(self, run: Run, step: Step, predictions: Mapping[str, Tensor]) -> Tensor:
        return predictions["cond"]


class Words(Plain):
    needs: ClassVar[frozenset[str]] = frozenset({"prompt", "spans"})


class Looks(Plain):
    needs: ClassVar[frozenset[str]] = frozenset({"capture", "grad", "regions"})


class Odd(Plain):
    needs: ClassVar[frozenset[str]] = frozenset({"a telescope"})


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Edits(), "changes the latents before a step"),
        (Guides(), "brings guidance of its own"),
        (Words(), "needs the words of the prompt, .* and needs the places of words in the prompt"),
        (Looks(), "needs the denoiser's attention maps and needs gradients"),
        (Odd(), "needs a telescope"),
        *((m(), "needs") for m in methods().values() if m.needs - {"regions"}),
        (method("tara*regional")(), "tara.regional .* needs the places of words"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_methods_of_more_than_gates_and_passes(pipe, paths, method, reason) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        tiny.attach(pipe, paths, method)
    assert "cannot be attached to a pipeline" in str(caught.value)
    assert "use compose.Composer" in str(caught.value)


class Reads(Plain):
    def gate(self, run: Run, step: Step) -> Gate:
        return Gate.all([float("cat" in p) for p in run.prompts])


class Encodes(Plain):
    def prepare(self, run: Run) -> Conditioning:
        return run.encode(["cat"], run.text_weights)


class Predicts(Plain):
    def passes(self, run: Run, step: Step) -> list[Pass]:
        found = super().passes(run, step)
        run.predict(torch.zeros(1, 4, 8, 8), step, found)
        return found


class Invents(Plain):
    def passes(self, run: Run, step: Step) -> list[Pass]:
        own = Conditioning(torch.zeros(run.images, 77, 32))
        return [replace(p, conditioning=own) for p in super().passes(run, step)]


class Forgets(Plain):
    def sides(self, run: Run, step: Step, predictions: Mapping[str, Tensor]) -> Sides:
        return Sides(predictions["cond"])


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        (Reads(), RequestError, r"asked for run\.prompts, which it cannot have when"),
        (Encodes(), RequestError, "asked for texts of its own"),
        (Predicts(), RequestError, "asked for denoiser calls of its own"),
        (Invents(), RequestError, "pass uncond has a conditioning of its own"),
        (Forgets(), ShapeError, "expected one for the negative prompt too"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_methods_that_ask_for_more_than_they_said(pipe, paths, method, error, says) -> None:
    """They are found out in the run; the pipeline is whole afterwards."""
    expected = tiny.call("text", pipe)
    with pytest.raises(error, match=says), tiny.attach(pipe, paths, method):
        tiny.call("text", pipe)
    assert torch.equal(tiny.call("text", pipe), expected)


class Waits(Plain):
    def check(self, run: Run) -> None:
        assert run.schedule or run.images


def test_a_check_cannot_ask_what_only_the_pipeline_will_know(pipe, paths) -> None:
    with pytest.raises(RequestError, match=r"asked for run\.schedule"):
        tiny.attach(pipe, paths, Waits())


class Strange(StableDiffusionPipeline):
    """Somebody's own pipeline, whose loop nobody knows."""


@pytest.mark.parametrize("kind", [StableDiffusionInstructPix2PixPipeline, Strange])
def test_pipelines_of_other_classes(pipe, kind) -> None:
    other = kind(**pipe.components, requires_safety_checker=False)
    with pytest.raises(ModelError, match=f"a {kind.__name__} cannot be attached to; expected one"):
        compose.attach(other, {})


def test_the_documentation_names_every_pipeline() -> None:
    text = (Path(__file__).parents[2] / "docs" / "attach.md").read_text()
    assert all(f"`{p.__name__}`" in text for kind in KINDS for p in kind.pipelines)


def library(paths: Sequence[Any]) -> AdapterLibrary:
    return AdapterLibrary([paths[0].parent])


def test_adapters_are_named_like_everywhere(pipe, paths) -> None:
    """By name, file, `AdapterUse`; a name alone has weight 1."""
    known = library(paths)
    uses = [compose.AdapterUse("a1", 0.5, 0.0), str(paths[0])]
    with compose.attach(pipe, uses, library=known) as attached:
        assert attached.adapters.names == ("a1", "a0")
        tiny.call("text", pipe)
        assert attached.trace[0].weights[0] == (0.5, 1.0)
    with compose.attach(pipe, {"a0": 0.3}, "switch", every=7, library=known) as attached:
        assert attached.method == methods()["switch"](every=7)
    with pytest.raises(AdapterNotFoundError, match="no adapter is called a7"):
        compose.attach(pipe, {"a7": 1.0}, library=known)
    with pytest.raises(ShapeError, match="adapter a0 is in the set more than once"):
        compose.attach(pipe, ["a0", "a0"], library=known)


def test_methods_are_named_like_everywhere(pipe, paths) -> None:
    known = library(paths)
    with pytest.raises(UnknownMethodError, match="did you mean switch"):
        compose.attach(pipe, {"a0": 1.0}, "swich", library=known)
    with pytest.raises(RequestError, match="has no field 'evry'"):
        compose.attach(pipe, {"a0": 1.0}, "switch", evry=2, library=known)
    with pytest.raises(RequestError, match="every=0 is out of range"):
        compose.attach(pipe, {"a0": 1.0}, "switch", every=0, library=known)
    with pytest.raises(RequestError, match="budget came with an instance of method merge"):
        compose.attach(pipe, {"a0": 1.0}, Merge(), budget="mean", library=known)
    with pytest.raises(RequestError, match="expected at least 1"):
        compose.attach(pipe, {}, "switch", library=known)
    with pytest.raises(RequestError, match="row budget 0 is too small"):
        compose.attach(pipe, {"a0": 1.0}, library=known, row_budget=0)


def test_a_pipeline_that_is_attached_already(paths) -> None:
    """Also through another pipeline over the same parts, and without any adapter."""
    one = tiny.pipeline("text")
    other = StableDiffusionPipeline.from_pipe(one)
    for files in (paths, []):
        with tiny.attach(one, files, Merge()):
            for pipe in (one, other):
                with pytest.raises(RequestError, match="unet carries adapters of lora-compose"):
                    tiny.attach(pipe, paths, Merge())
    with tiny.attach(other, paths, Merge()):
        pass


def test_a_pipeline_whose_composer_holds_adapters(paths) -> None:
    composer = engine.composer()
    engine.latents(composer, engine.request(paths, [1.0, 1.0], Merge(), steps=1))
    with pytest.raises(RequestError, match="so detach them, or close their Composer"):
        tiny.attach(composer.family.pipe, paths, Merge())
    composer.close()
    tiny.attach(composer.family.pipe, paths, Merge()).detach()


def test_a_pipeline_with_adapters_of_peft(tmp_path, paths) -> None:
    pytest.importorskip("peft")
    pipe = tiny.pipeline("text")
    (file,) = engine.files(tmp_path, ranks=(2,), layout="diffusers", alpha=None)
    pipe.load_lora_weights(str(file))
    with pytest.raises(RequestError, match=r"PEFT; .* out with pipe\.unload_lora_weights"):
        tiny.attach(pipe, paths, Merge())
    pipe.unload_lora_weights()
    tiny.attach(pipe, paths, Merge()).detach()


def test_a_pipeline_that_is_compiled(paths) -> None:
    pipe = tiny.pipeline("text")
    pipe.unet.mid_block.compile(backend="eager")
    with pytest.raises(RequestError, match=r"unet is compiled; .* attach to a pipeline that is"):
        tiny.attach(pipe, paths, Merge())
    pipe = tiny.pipeline("text")
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with pytest.raises(RequestError, match="unet is compiled"):
        tiny.attach(pipe, paths, Merge())


def test_a_pipeline_that_is_offloaded_layer_by_layer(paths) -> None:
    pytest.importorskip("accelerate")
    pipe = tiny.pipeline("text")
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(RequestError, match=r"by layer; .* so use pipe\.enable_model_cpu_offload"):
        tiny.attach(pipe, paths, Merge())


def test_a_lora_scale_that_would_have_no_effect(pipe, paths) -> None:
    with tiny.attach(pipe, paths, Merge()):
        with pytest.raises(RequestError, match=r"cross_attention_kwargs asks for a LoRA scale of"):
            tiny.call("text", pipe, cross_attention_kwargs={"scale": 0.5})
        tiny.call("text", pipe, cross_attention_kwargs={"scale": 1.0})


def test_a_method_without_passes_of_its_own_is_attached_as_it_is(pipe, paths) -> None:
    """Nothing but gates: `Plain` is a merge."""
    assert isinstance(Plain(), CompositionMethod)
    with tiny.attach(pipe, paths, Merge()):
        expected = tiny.call("text", pipe)
    with tiny.attach(pipe, paths, Plain()):
        assert torch.equal(tiny.call("text", pipe), expected)
