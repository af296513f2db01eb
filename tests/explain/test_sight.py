"""What is seen beside effects: attention to words, and masks; and what the method sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from compose.attention import Columns, text_layers
from compose.attention.maps import averaged
from compose.explain import Explainer
from compose.fusion import method
from compose.fusion.merge import Merge
from compose.fusion.regional import Regional
from compose.fusion.tara import Tara
from compose.passes import Pass
from compose.regions import feathered, shared
from compose.request import Request
from compose.run import Run
from compose.types import Step
from tests import engine
from tests.attention.test_methods import Apart, Follow
from tests.families import FAMILIES


def explained(composer: Any, asked: Request) -> tuple[Any, Run]:
    explainer = Explainer(asked.method)
    _, run = composer.latents(composer.prepare(asked), observer=explainer)
    return explainer.explanations(run)[0], run


@dataclass
class Notes:
    """What a method has read, and a mask it made of that."""

    read: list[dict[str, dict[str, list[Tensor]]]]
    masks: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Reader(Merge):
    """Captures attention of its own, keeps all it finds, and puts new notes into its state."""

    name: ClassVar[str] = "reader"

    def prepare(self, run: Run) -> Notes:
        return Notes([])

    def passes(self, run: Run, step: Step) -> list[Pass]:
        def wanted(k: int) -> Columns:
            return Columns(text_layers(), run.positions(k, class_word=True), norm="text")

        capture = {f"word {k}": wanted(k) for k in range(len(run.adapters))}
        found = super().passes(run, step)
        return [replace(p, capture=capture) if p.name == "cond" else p for p in found]

    def fuse(self, run: Run, step: Step, predictions: Mapping[str, Tensor]) -> Tensor:
        read = {
            of: {name: [layer.values for layer in layers] for name, layers in names.items()}
            for of, names in run.maps.items()
        }
        maps = [averaged(layers).mean(dim=1) for layers in run.maps["cond"].values()]
        run.state = Notes([*run.state.read, read], torch.stack(maps, dim=1))
        return super().fuse(run, step, predictions)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_those_that_a_method_would_capture_and_the_methods_own_stay(
    name, tmp_path
) -> None:
    family = FAMILIES[name]
    paths = family.files(tmp_path)[:2]
    with engine.composer(pipe=family.build()) as composer:
        asked = family.request(paths, [1.0, 0.5], Reader(), steps=2)
        plain, quiet = composer.latents(composer.prepare(asked))
        explainer = Explainer(asked.method)
        latents, run = composer.latents(composer.prepare(asked), observer=explainer)
    assert torch.equal(latents, plain)
    assert len(run.state.read) == 2
    for one, other in zip(run.state.read, quiet.state.read, strict=True):
        assert {of: list(names) for of, names in one.items()} == {"cond": ["word 0", "word 1"]}
        for n, layers in one["cond"].items():
            assert all(map(torch.equal, layers, other["cond"][n]))
    told = explainer.explanations(run)[0]
    for k, adapter in enumerate(told.adapters):
        assert adapter.words == engine.TRIGGERS[k]
        seen = explainer._seen[k].attention
        assert len(seen) == 2  # in the rows of the prompt alone
        torch.testing.assert_close(adapter.attention, torch.stack(seen).mean(dim=0)[0])
        assert torch.equal(seen[-1], run.state.masks[:, k])


@pytest.mark.parametrize("kind", [Apart, Follow, partial(Regional, isolate=1.0, text="places")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_biases_gradients_and_half_precision_are_not_disturbed(kind, dtype, tmp_path) -> None:
    paths = engine.files(tmp_path)[:2]
    with engine.composer(dtype) as composer:
        asked = engine.request(paths, [1.0, 0.5], kind(), steps=2)
        plain, _ = composer.latents(composer.prepare(asked))
        told, run = explained(composer, asked)
        again, _ = composer.latents(composer.prepare(asked), observer=Explainer(asked.method))
    assert torch.equal(plain, again) and run.maps == {}
    for adapter in told.adapters:
        assert adapter.effect.dtype == torch.float32 and (adapter.effect > 0).all()
        assert not adapter.effect.requires_grad and not adapter.attention.requires_grad


def test_masks_in_a_methods_state_are_the_regions_that_nobody_drew(tmp_path) -> None:
    paths = engine.files(tmp_path)[:2]
    with engine.composer() as composer:
        told, run = explained(composer, engine.request(paths, [1.0, 1.0], Reader(), steps=1))
    for k, adapter in enumerate(told.adapters):
        expected = run.state.masks[0, k]  # made behind the last look, in `fuse`
        assert adapter.mask is not None and adapter.mask.shape == adapter.effect.shape
        torch.testing.assert_close(adapter.mask.mean(), expected.mean())
        assert adapter.origin == "automatic" and adapter.region is adapter.mask
        assert adapter.bleed is not None


@pytest.mark.parametrize("name", ["regional", "tara*regional", "switch*regional"])
def test_masks_of_regions_are_as_the_method_uses_them(tmp_path, name) -> None:
    paths = engine.files(tmp_path)
    prefix = "regional." if "*" in name else ""
    chosen = method(name).parse({f"{prefix}feather": 0.1, f"{prefix}overlap": "average"})
    with engine.composer() as composer:
        told, run = explained(composer, engine.request(paths, [1.0] * 3, chosen, steps=16))
    soft = shared(feathered(run.regions, 0.1)[:2], "average")
    for k, adapter in enumerate(told.adapters[:2]):
        torch.testing.assert_close(adapter.mask, soft[k])
        assert adapter.origin == "drawn" and torch.equal(adapter.region, run.regions[k])
        assert (adapter.mask - adapter.region).abs().max() > 0.1
    everywhere = told.adapters[2]
    assert (everywhere.mask == 1).all() and everywhere.region is None and everywhere.bleed is None


def test_a_gate_that_is_the_same_everywhere_is_no_mask(tmp_path) -> None:
    with engine.composer() as composer:
        asked = engine.request(engine.files(tmp_path), [1.0] * 3, Tara(scope="strict"), steps=1)
        told, _ = explained(composer, asked)
    assert all(a.mask is None and a.region is None for a in told.adapters)


def test_words_are_the_trigger_and_its_class_word(tmp_path) -> None:
    metadata = {"lora_compose": '{"class_word": "cat"}'}
    paths = [
        *engine.files(tmp_path / "plain", ranks=(2,)),
        *engine.files(tmp_path / "told", ranks=(2,), metadata=metadata),
    ]
    paths[1] = paths[1].rename(tmp_path / "told.safetensors")
    with engine.composer() as composer:
        asked = engine.request(paths, [1.0, 1.0], Merge(), steps=1)
        told, run = explained(composer, asked)
    adapters = run.adapters.adapters
    assert [a.class_word for a in adapters] == ["", "cat"]
    assert [a.words for a in told.adapters] == ["mochi", "mochi cat"]
    assert not torch.equal(told.adapters[0].attention, told.adapters[1].attention)


def test_an_adapter_that_nothing_in_the_prompt_calls_has_no_map_and_an_effect(tmp_path) -> None:
    paths = engine.files(tmp_path)[:2]
    with engine.composer() as composer:
        asked = engine.request(paths, [1.0, 1.0], Regional(), steps=1)
        told, _ = explained(composer, replace(asked, prompt="biscuit dog"))
    one, other = told.adapters
    assert one.words == "" and one.attention is None and one.effect.any()
    assert other.words == "biscuit" and other.attention is not None


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_words_that_no_text_encoder_sees_have_no_map(name, tmp_path) -> None:
    family = FAMILIES[name]
    paths = family.files(tmp_path)[:1]
    with engine.composer(pipe=family.build()) as composer:
        asked = family.request(paths, [1.0], Merge(), steps=1)
        told, _ = explained(composer, replace(asked, prompt="cat " * 600 + "mochi"))
    assert told.adapters[0].attention is None and told.adapters[0].effect.any()
