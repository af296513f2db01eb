"""Attached methods against our own loop, PEFT, and denoisers with merged weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import HeunDiscreteScheduler

import compose
from compose.adapters.library import AdapterLibrary
from compose.fusion import methods
from compose.fusion.composite import Composite
from compose.fusion.merge import Merge
from compose.fusion.switch import Switch
from compose.models.family import SCHEDULERS
from tests import engine
from tests.attachment import pipelines as tiny
from tests.attachment.pipelines import WEIGHTS

PEFT = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Adapters of UNet and text encoder."""
    return engine.files(tmp_path_factory.mktemp("both"), layout="diffusers", alpha=None)


@pytest.fixture(scope="module")
def unet_paths(tmp_path_factory) -> list[Path]:
    """Adapters of the UNet alone."""
    return engine.files(tmp_path_factory.mktemp("unet"), layout="diffusers", alpha=None, text=())


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++", "heun"])
@pytest.mark.parametrize(
    "method",
    [Merge(), Merge(budget="mean"), Switch(every=1), Switch(every=2, uncond=False), Composite()],
    ids=lambda m: f"{m.name}-{'-'.join(map(str, m.values().values()))}",
)
def test_a_text_to_image_pipeline_gives_what_our_own_loop_gives(paths, scheduler, method) -> None:
    """Bit for bit, text-encoder parts included."""
    composer = engine.composer()
    pipe = composer.family.pipe
    solver = {**SCHEDULERS, "heun": HeunDiscreteScheduler}[scheduler]
    pipe.scheduler = solver.from_config(pipe.scheduler.config)
    asked = engine.request(paths, WEIGHTS, method)
    with composer:
        expected, run = composer.latents(composer.prepare(asked))
    plain = engine.stock(pipe, asked)
    with tiny.attach(pipe, paths, method) as attached:
        got = engine.stock(pipe, asked)
    assert (got - plain).abs().max() > 0.05  # the adapters do something
    assert torch.equal(got, expected)
    assert (attached.calls, attached.trace) == (run.calls, run.trace)
    assert attached.warnings == []


@PEFT
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_switch_equals_peft_adapters_switched_in_a_callback(paths, unet_paths, kind) -> None:
    """The callback encodes the prompt again, which the ControlNet would see in the next step: hence
    adapters without a text-encoder part there.
    """
    files = (unet_paths if "controlnet" in kind else paths)[:2]
    pipe = tiny.pipeline(kind)
    stock = tiny.with_peft(pipe, files)
    expected = tiny.peft_switch(kind, stock, WEIGHTS, lambda step: step % 2)
    plain = tiny.call(kind, pipe)
    with tiny.attach(pipe, files, Switch(every=1)):
        got = tiny.call(kind, pipe)
    assert (got - plain).abs().max() > 0.05
    engine.assert_close(got, expected)


@PEFT
@pytest.mark.parametrize("convention", ["paper", "reference"])
def test_both_conventions_of_switch_in_a_callback(paths, convention) -> None:
    """The released code of LoRA Switch (maszhongming/Multi-LoRA-Composition, callbacks.py) waits
    for a positive step index that `every` divides; the callback runs after that step, so the first
    turn is one step longer than the others.
    """
    turns = {"paper": [0, 0, 1, 1, 2, 2, 0], "reference": [0, 0, 0, 1, 1, 2, 2]}[convention]
    pipe = tiny.pipeline("text")
    stock = tiny.with_peft(pipe, paths)
    more = {"num_inference_steps": 6}
    expected = tiny.peft_switch("text", stock, WEIGHTS, lambda step: turns[step], **more)
    with tiny.attach(pipe, paths, Switch(every=2, convention=convention)) as attached:
        engine.assert_close(tiny.call("text", pipe, **more), expected)
    acting = [[w != 0 for w in record.weights[0]].index(True) for record in attached.trace]
    assert acting == turns[:6]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_composite_equals_the_mean_of_merged_denoisers(unet_paths, kind) -> None:
    """The stock pipeline over the mean of three denoisers, one adapter merged into each."""
    pipe = tiny.pipeline(kind)
    with tiny.attach(pipe, unet_paths, Composite()) as attached:
        got = tiny.call(kind, pipe, num_images_per_prompt=2, generator=tiny.generators(3, 4))
    assert (attached.calls.forwards, attached.calls.rows) == (4, 4 * 2 * 2 * 3)
    pipe.unet.forward = tiny.averaging(tiny.denoisers(pipe, unet_paths))
    expected = tiny.call(kind, pipe, num_images_per_prompt=2, generator=tiny.generators(3, 4))
    engine.assert_close(got, expected)


def test_composite_from_a_picture_by_hand(paths) -> None:
    """Prompts, predictions, mean, guidance and solver written out; text-encoder parts included."""
    pipe = tiny.pipeline("img2img")
    with tiny.attach(pipe, paths, Composite()):
        got = tiny.call("img2img", pipe)
    composer = tiny.composer(pipe)
    alone = [
        engine.merged_pipeline(composer, [path], [weight])
        for path, weight in zip(paths, WEIGHTS, strict=True)
    ]
    with torch.no_grad():
        texts = [p.encode_prompt(tiny.PROMPT, "cpu", 1, True, tiny.NEGATIVE) for p in alone]
        pipe.scheduler.set_timesteps(6)
        timesteps, _ = pipe.get_timesteps(6, 0.7, "cpu")
        start = pipe.image_processor.preprocess(tiny.picture(1))
        generator = torch.Generator().manual_seed(3)
        x = pipe.prepare_latents(start, timesteps[:1], 1, 1, torch.float32, "cpu", generator)
        for t in timesteps:
            cond, uncond = (
                sum(
                    p.unet(x, t, encoder_hidden_states=text[side])[0]
                    for p, text in zip(alone, texts, strict=True)
                )
                / 3
                for side in (0, 1)
            )
            x = pipe.scheduler.step(uncond + 5.0 * (cond - uncond), t, x)[0]
    engine.assert_close(got, x)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_zero_weights_are_bit_equal_to_the_pipeline_without_adapters(paths, kind) -> None:
    pipe = tiny.pipeline(kind)
    expected = tiny.call(kind, pipe)
    for method in (Merge(), Switch(every=1)):
        uses = [compose.AdapterUse(str(path), 0.0) for path in paths]
        with compose.attach(pipe, uses, method, library=AdapterLibrary(())):
            assert torch.equal(tiny.call(kind, pipe), expected)
    with tiny.attach(pipe, [], Merge()):
        assert torch.equal(tiny.call(kind, pipe), expected)


@pytest.mark.parametrize("name", sorted(n for n, m in methods().items() if not m.needs))
def test_every_method_of_gates_and_passes_gives_what_our_own_loop_gives(paths, name) -> None:
    """Whichever methods there are; those that need more are refused."""
    composer, method = engine.composer(), methods()[name]()
    asked = engine.request(paths, WEIGHTS, method)
    with composer:
        expected = engine.latents(composer, asked)
    with tiny.attach(composer.family.pipe, paths, method):
        engine.assert_close(engine.stock(composer.family.pipe, asked), expected)


def ip_adapter() -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter of random weights for the tiny UNet: image embeddings [24] to 4 tokens."""
    generator = torch.Generator().manual_seed(9)
    unet = tiny.pipeline("text").unet
    width = unet.config.cross_attention_dim

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    projection = {
        "proj.weight": random(4 * width, 24),
        "proj.bias": random(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    layers: dict[str, torch.Tensor] = {}
    crossing = [n for n in unet.attn_processors if "attn2" in n]
    for number, name in enumerate(crossing):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{part}.weight"] = random(attention.inner_dim, width)
    return {"image_proj": projection, "ip_adapter": layers}


@pytest.mark.parametrize("kind", ["text", "inpaint9"])
def test_an_ip_adapter_goes_with_it(unet_paths, kind) -> None:
    """Image embeddings follow their rows; against the mean of merged denoisers, as above."""
    pipe = tiny.pipeline(kind)
    plain = tiny.denoisers(pipe, unet_paths)
    for unet in (pipe.unet, *plain):
        unet._load_ip_adapter_weights([ip_adapter()])
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.randn(2, 1, 24, generator=generator) for _ in range(1)]
    more = {"ip_adapter_image_embeds": pictures}
    with tiny.attach(pipe, unet_paths, Composite()):
        got = tiny.call(kind, pipe, **more)
        other = tiny.call(kind, pipe, ip_adapter_image_embeds=[-p for p in pictures])
    assert (got - other).abs().max() > 1e-3  # the picture says something
    pipe.unet.forward = tiny.averaging(plain)
    engine.assert_close(got, tiny.call(kind, pipe, **more))
