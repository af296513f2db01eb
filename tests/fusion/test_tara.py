"""TARA: adapters on their own words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import RequestError
from compose.fusion.merge import Merge
from compose.fusion.tara import Tara
from compose.request import AdapterUse
from compose.run import Run
from compose.slot import token_gate
from compose.types import Site
from tests import engine
from tests.fusion.ready import WEIGHTS, Ready, close

WORDS = ("mochi", "biscuit", "sunvo")


def text_rows(site: Site, tensor: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    """The rows [..., n, d] of text and of image at a site that has both."""
    count = run.state.shape[1]
    assert run.family.layout(torch.zeros(1, 4, 8, 8)).text_first and site.stream == "joint"
    return tensor[..., :count, :], tensor[..., count:, :]


def test_own_words_are_the_trigger_in_every_encoder(ready: Ready) -> None:
    run = ready.run(Tara())
    prompt = engine.PROMPT
    for k, word in enumerate(WORDS):
        start = prompt.index(word)
        characters = set(range(start, start + len(word)))
        (tokens,) = run.text([1.0] * 3).cond.tokens
        expected = sorted({t.position for t in tokens if characters & set(range(t.start, t.end))})
        assert expected and run.state[0, :, k].nonzero()[:, 0].tolist() == expected
        assert run.positions(k) == (tuple(expected),)


@pytest.mark.parametrize("text", ["own", "not_others"])
def test_a_layer_on_text_changes_the_words_of_an_adapter_by_that_adapter_alone(
    ready: Ready, text: str
) -> None:
    """Rows of words that are nobody's are the base's, bit for bit, or everybody's."""
    method = Tara(text=text)
    run = ready.run(method)
    own = run.state[0] if text == "own" else Tara().prepare(run)[0]
    met = set()
    for site, change, each in ready.changes(run, method):
        whole = (each * torch.tensor(WEIGHTS)[:, None, None]).sum(dim=0)
        if site.stream == "joint":
            change, image = text_rows(site, change, run)
            each, whole_image = each[:, : len(change)], whole[len(change) :]
            close(image, whole_image)
            whole = whole[: len(change)]
        if site.stream in ("image", "vector"):
            close(change, whole)
            continue
        met.add(site.stream)
        for k, weight in enumerate(WEIGHTS):
            mine = own[:, k].bool()
            assert change[mine].abs().max() > 1e-4 or each[k][mine].abs().max() < 1e-4
            close(change[mine], weight * each[k][mine])
        nobody = own.sum(dim=1) == 0
        if text == "own":
            assert torch.count_nonzero(change[nobody]) == 0
        else:
            close(change[nobody], whole[nobody])
    assert "text" in met and ("joint" in met) == (run.family.name == "flux")


def test_strict_leaves_all_that_is_not_text_to_the_base(ready: Ready) -> None:
    method = Tara(scope="strict")
    run = ready.run(method)
    for site, change, _ in ready.changes(run, method):
        if site.stream == "joint":
            _, change = text_rows(site, change, run)
        if site.stream != "text":
            assert torch.count_nonzero(change) == 0, site.path


def test_adapters_of_layers_on_images_alone_do_nothing_under_strict(
    ready: Ready, tmp_path: Path
) -> None:
    """The picture is the base's, bit for bit, and not so under reference."""
    family = ready.family
    asked = family.request([], [], Merge())
    base = engine.latents(ready.composer, asked)
    sites = {
        component: [
            path
            for path in paths
            if ready.composer.family.site(
                component, path, ready.composer.family.components[component].get_submodule(path)
            ).stream
            in ("image", "vector")
        ]
        for component, paths in family.sites.items()
        if component == ready.composer.family.denoiser_name
    }
    (path,) = replace(family, sites=sites).files(tmp_path, ranks=(4,))
    for scope, same in (("strict", True), ("reference", False)):
        got = engine.latents(ready.composer, family.request([path], [1.0], Tara(scope=scope)))
        assert torch.equal(got, base) is same


def test_the_key_of_a_word_does_not_depend_on_other_adapters(ready: Ready) -> None:
    """Rows of one trigger have no gradient to the factors of the other adapters."""
    method = Tara()
    run = ready.run(method)
    slot = ready.composer.slots[ready.composer.family.denoiser_name]
    (gate,) = (p.gate for p in method.passes(run, run.schedule.step(0)) if p.name == "cond")
    seen = 0
    for layer in ready.layers:
        if layer.site.stream != "text":
            continue
        layer.lora_down.requires_grad_(True)
        x = torch.randn(1, run.state.shape[1], layer.base.in_features)
        with slot.hold(gate):
            out = layer(x)
        out[0, run.state[0, :, 1].bool()].sum().backward()
        size = layer.lora_down.grad.abs().sum(dim=1)
        mine = layer.lora_index == 1
        assert torch.count_nonzero(size[~mine]) == 0 and (size[mine] > 0).all()
        layer.lora_down.grad = None
        layer.lora_down.requires_grad_(False)
        seen += 1
    assert seen


def test_a_joint_sequence_taken_apart_elsewhere_would_be_seen(sd15: Ready) -> None:
    """Text before image, and not after it, as in FLUX."""
    run = sd15.run(Tara(text="not_others"))
    (gate,) = (p.gate for p in Tara(text="not_others").passes(run, run.schedule.step(0))[1:])
    image = torch.zeros(1, 3, 4, 6)
    image[:, 0, :, :3] = 1
    gate = replace(gate, image=image)
    layout = run.family.layout(torch.zeros(1, 4, 4, 6))
    site = Site("transformer", "x", "joint")
    text = gate.text
    assert text is not None
    for first in (True, False):
        got = token_gate(gate, site, 77 + 24, replace(layout, text_first=first))
        assert got is not None
        parts = (got[:, :77], got[:, 77:]) if first else (got[:, 24:], got[:, :24])
        assert torch.equal(parts[0], text)
        assert torch.equal(parts[1], image.flatten(2).transpose(1, 2))


def test_every_image_has_the_positions_of_its_own_prompt(ready: Ready) -> None:
    """A batch with triggers in different places is as if each image were made alone."""
    prompts = (engine.PROMPT, "a sunvo style, mochi dog (biscuit:1.2) biscuit")
    method = Tara(text="not_others")
    run = replace(ready.run(method, seeds=(1, 2)), prompts=prompts, _texts={})
    step = run.schedule.step(1)
    noise = torch.randn(
        2, *ready.composer.family.latents(engine.SIZE, run.schedule, [torch.Generator()]).shape[1:]
    )

    def sides(run: Run, noise: Tensor) -> dict[str, Tensor]:
        run.state = method.prepare(run)
        return run.predict(noise, step, method.passes(run, step))

    with torch.no_grad():
        both = sides(run, noise)
        assert run.state.shape[0] == 2 and not torch.equal(run.state[0], run.state[1])
        for k, prompt in enumerate(prompts):
            one = replace(run, prompts=(prompt,), negatives=run.negatives[:1], _texts={}, trace=[])
            for name, got in sides(one, noise[k : k + 1]).items():
                engine.assert_close(both[name][k : k + 1], got)


def test_the_class_word_counts_behind_the_trigger_alone(sd15: Ready) -> None:
    run = sd15.run(Tara())
    first = replace(run.adapters.adapters[0], class_word="cat")
    run.adapters = replace(run.adapters, adapters=(first, *run.adapters.adapters[1:]))
    assert run.positions(0) == ((1,),) and run.positions(0, class_word=True) == ((1, 2),)
    state = Tara(words="class").prepare(run)
    assert state[0, :, 0].nonzero()[:, 0].tolist() == [1, 2]
    assert state[0, :, 1].nonzero()[:, 0].tolist() == [4]  # no class word is known
    run.prompts = ("mochi, cat and biscuit, sunvo mochi cat",)
    run._texts.clear()
    assert run.positions(0, class_word=True) == ((1, 8, 9),)


def test_the_negative_prompt_can_be_left_to_the_base(sd15: Ready) -> None:
    run = sd15.run(Tara(uncond=False))
    uncond, cond = Tara(uncond=False).passes(run, run.schedule.step(0))
    assert not uncond.gate.active and cond.gate.active == (0, 1, 2)


def asked(ready: Ready, *uses: AdapterUse, prompt: str = engine.PROMPT) -> Any:
    request = ready.family.request([], [], Tara())
    return replace(request, prompt=prompt, adapters=uses)


def test_words_may_be_bound_and_count_in_place_of_the_files_own(sd15: Ready) -> None:
    uses = [AdapterUse(str(p)) for p in sd15.paths[:2]]
    bound = replace(uses[0], trigger="Sunvo  style")
    prepared = sd15.composer.prepare(asked(sd15, bound, uses[1]))
    assert prepared.adapters.adapters[0].triggers == ("Sunvo  style",)
    run = sd15.composer._run(prepared.request, prepared.adapters, (1,))
    assert run.positions(0) == ((7, 8),)


@pytest.mark.parametrize(
    ("prompt", "triggers", "says"),
    [
        ("a cat and biscuit dog", (None, None), "adapter a0 is not called .* 'mochi'; .*--bind"),
        ("mochi cat", (None, None), "adapter a1 is not called"),
        ("mochi biscuit", (None, "mochi"), "a0 and a1 are both called by 'mochi'"),
        ("a mochi cat", (None, "mochi cat"), "both called by 'mochi cat'"),
        ("mochi cat, biscuit cat", ("mochi", "cat"), None),
        ("mochi cat, Mochi dog", ("Mochi dog", "mochi cat"), None),
    ],
)
def test_words_that_call_nobody_or_two_are_refused(
    sd15: Ready, prompt: str, triggers: tuple[str | None, ...], says: str | None
) -> None:
    uses = (AdapterUse(str(p), trigger=t) for p, t in zip(sd15.paths[:2], triggers, strict=True))
    request = asked(sd15, *uses, prompt=prompt)
    if says is None:
        sd15.composer.prepare(request)
        return
    with pytest.raises(RequestError, match=says):
        sd15.composer.prepare(request)
