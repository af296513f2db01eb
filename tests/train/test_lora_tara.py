"""TARA in training: the change of keys and values stays on the trigger, and keys are aligned."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from compose.adapters.inspection import inspect
from compose.composer import Composer
from compose.errors import ConceptError
from compose.fusion.tara import Tara as TaraMethod
from compose.request import AdapterUse, Request
from compose.train import lora
from compose.train.lora_config import LoraConfig
from compose.train.lora_data import Batch, concept_pictures, encode
from compose.train.lora_file import write
from compose.train.lora_loss import batch_loss
from compose.train.lora_tara import Keys, Tara, align_loss, tara
from compose.train.lora_words import Words, check_words, find_words
from tests import engine
from tests.train.lora_pipeline import SIZE, configure, tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@contextmanager
def adapted(pipe: Any, config: LoraConfig) -> Iterator[tuple[Tara, list[nn.Parameter]]]:
    """A pipeline with random factors, none of them zero, under TARA."""
    with (
        lora.adapted(pipe.unet, config.settings) as parameters,
        tara(pipe, lora._NAME, config.settings.align_power) as gated,
    ):
        rng = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in parameters:  # of few digits: they go into a file as they are
                p.copy_((0.2 * torch.randn(p.shape, generator=rng)).half().float())
        yield gated, parameters


def drawn(pipe: Any, config: LoraConfig, count: int = 6, dropout: float = 0.5) -> Batch:
    """Rows with and without the trigger."""
    bank = encode(concept_pictures(config, SIZE), config.concept, pipe)
    batch = bank.draw(count, dropout, torch.Generator().manual_seed(1))
    called = batch.words.trigger.any(dim=1)
    assert called.any() and not called.all()
    return batch


def denoise(pipe: Any, batch: Batch) -> Tensor:
    times = torch.arange(len(batch.latents)) * 150
    guess: Tensor = pipe.unet(batch.latents, times, batch.texts, return_dict=False)[0]
    return guess


# The alignment loss


def hand(keys: list[Keys], texts: Tensor, words: Words, power: int) -> Tensor:
    """Token by token, row by row, layer by layer; keys are averaged, not embeddings."""
    layers = []
    for k in keys:
        rows = []
        for x, own, kind in zip(texts, words.trigger, words.class_word, strict=True):
            if own.any() and kind.any():
                full = [k.base @ t + k.scale * (k.up @ (k.down @ t)) for t in x[own]]
                base = [k.base @ t for t in x[kind]]
                gap = sum(full) / len(full) - sum(base) / len(base)
                rows.append((gap.abs() if power == 1 else gap**2).mean())
        layers.append(sum(rows) / len(rows))
    return sum(layers) / len(layers)


def example() -> tuple[list[Keys], Tensor, Words]:
    """Layers of unequal width; rows with 1 and 3 tokens of a word, and rows that lack one."""
    rng = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    keys = [Keys(noise(d, 6), noise(2, 6), noise(d, 2), 0.5) for d in (4, 8, 5)]
    own, kind = torch.zeros(4, 7, dtype=torch.bool), torch.zeros(4, 7, dtype=torch.bool)
    own[0, 1:4] = own[1, 2] = own[2, 1] = True
    kind[0, 4] = kind[1, 3:6] = kind[3, 1] = True
    return keys, noise(4, 7, 6), Words(own, kind)


@pytest.mark.parametrize("power", [1, 2])
def test_alignment_is_the_difference_of_mean_keys(power: int) -> None:
    keys, texts, words = example()
    torch.testing.assert_close(
        align_loss(keys, texts, words, power),
        hand(keys, texts, words, power),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("power", [1, 2])
def test_alignment_is_zero_only_where_the_keys_agree(power: int) -> None:
    keys, texts, words = example()
    texts, words = texts[:1], words.rows(torch.tensor([0]))
    own, kind = texts[0, 1:4].mean(dim=0), texts[0, 4]
    # a change of rank one that takes the trigger's mean key to the class word's
    met = [
        Keys(k.base, own[None] / (own @ own), (k.base @ (kind - own))[:, None] * 2, 0.5)
        for k in keys
    ]
    assert align_loss(met, texts, words, power) < 1e-12
    for layer in range(len(met)):
        off = [replace(k, scale=0.499) if n == layer else k for n, k in enumerate(met)]
        assert align_loss(off, texts, words, power) > 1e-8


def test_rows_that_lack_a_word_count_for_nothing() -> None:
    keys, texts, words = example()
    some = torch.tensor([0, 1])
    torch.testing.assert_close(
        align_loss(keys, texts, words), align_loss(keys, texts[some], words.rows(some))
    )
    none = torch.tensor([2, 3])
    keys = [replace(k, up=k.up.requires_grad_()) for k in keys]
    loss = align_loss(keys, texts[none], words.rows(none))
    assert loss == 0
    loss.backward()
    assert all(k.up.grad is not None and torch.count_nonzero(k.up.grad) == 0 for k in keys)


def test_alignment_moves_the_factors_of_keys_and_nothing_else(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True, targets="attention_ff")
    batch = drawn(pipe, config)
    with adapted(pipe, config) as (gated, parameters):
        gated.align(batch.texts, batch.words).backward()
        named = dict(pipe.unet.named_parameters())
        moved = {n for n, p in named.items() if p.grad is not None}
        for p in parameters:
            p.grad = None
    wanted = {n for n in named if ".attn2.to_k.lora_" in n}
    assert moved == wanted and len(wanted) == 2 * len(gated.keys) > 2


def test_the_loss_of_the_model_is_that_of_its_layers(pipe: Any, tmp_path: Path) -> None:
    """Keys as the layers themselves give them, the adapter's change in full."""
    config = configure(tmp_path, tara=True, alpha=6.0)
    batch = drawn(pipe, config)
    gaps = []
    with adapted(pipe, config) as (gated, _), torch.no_grad():
        gated.see(batch.words)
        for path, layer in pipe.unet.named_modules():
            if path.endswith("attn2.to_k"):
                full, base = layer(batch.texts), layer.base_layer(batch.texts)
                for row in batch.words.both.nonzero()[:, 0]:
                    own = full[row][batch.words.trigger[row]].mean(dim=0)
                    kind = base[row][batch.words.class_word[row]].mean(dim=0)
                    gaps.append((own - kind).abs().mean())
        found = gated.align(batch.texts, batch.words)
    torch.testing.assert_close(found, torch.stack(gaps).mean(), rtol=1e-4, atol=1e-6)


# The gate


def text_layers(pipe: Any) -> dict[str, Any]:
    names = ("attn2.to_k", "attn2.to_v")
    return {n: m for n, m in pipe.unet.named_modules() if n.endswith(names)}


@pytest.mark.parametrize("targets", ["keys_values", "attention_ff"])
def test_the_change_of_keys_and_values_stays_on_the_trigger(
    pipe: Any, tmp_path: Path, targets: str
) -> None:
    config = configure(tmp_path, tara=True, targets=targets)
    batch = drawn(pipe, config)
    own = batch.words.trigger
    with adapted(pipe, config) as (gated, parameters):
        gated.see(batch.words)
        layers = text_layers(pipe)
        for layer in layers.values():
            out, base = layer(batch.texts), layer.base_layer(batch.texts)
            assert torch.equal(out[~own], base[~own])
            a, b = layer.lora_A[lora._NAME].weight, layer.lora_B[lora._NAME].weight
            torch.testing.assert_close(
                out[own], base[own] + functional.linear(functional.linear(batch.texts[own], a), b)
            )
            assert (out[own] - base[own]).abs().max() > 1e-3
            grads = torch.autograd.grad(out[~own].square().sum(), [a, b])
            assert all(torch.count_nonzero(g) == 0 for g in grads)
        assert layers and all(p.grad is None for p in parameters)
    assert not any(m._forward_hooks for m in pipe.unet.modules())


def test_layers_on_image_tokens_are_not_gated(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True, targets="attention_ff")
    with adapted(pipe, config) as (gated, _):
        gated.see(Words(*(torch.zeros(1, 40, dtype=torch.bool),) * 2))
        hooked = {n for n, m in pipe.unet.named_modules() if m._forward_hooks}
        assert hooked == {f"{n}.lora_A.{lora._NAME}" for n in text_layers(pipe)}


def test_training_leaves_other_tokens_to_the_base(pipe: Any, tmp_path: Path) -> None:
    """After some steps, in one denoiser call with captions that call the adapter and not."""
    config = configure(tmp_path, tara=True, targets="attention", lr=0.05, batch=4)
    bank = encode(concept_pictures(config, SIZE), config.concept, pipe)
    batch = drawn(pipe, config)
    own, seen = batch.words.trigger, 0
    with (
        lora.adapted(pipe.unet, config.settings) as parameters,
        tara(pipe, lora._NAME, 1) as gated,
    ):
        lora._optimise(pipe, parameters, [(bank, 4)], config.settings, None, gated)
        gated.see(batch.words)

        def compare(layer: Any, args: tuple[Tensor], out: Tensor) -> None:
            nonlocal seen
            base = layer.base_layer(args[0])
            assert torch.equal(out[~own], base[~own]) and not torch.equal(out[own], base[own])
            seen += 1

        for layer in text_layers(pipe).values():
            layer.register_forward_hook(compare)
        with torch.no_grad():
            denoise(pipe, batch)
        assert seen == len(text_layers(pipe)) > 2


def test_keys_and_values_alone_leave_uncalled_rows_to_the_base(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True, targets="keys_values")
    batch = drawn(pipe, config)
    called = batch.words.trigger.any(dim=1)
    with torch.no_grad():
        base = denoise(pipe, batch)
        with adapted(pipe, config) as (gated, _):
            gated.see(batch.words)
            got = denoise(pipe, batch)
    assert torch.equal(got[~called], base[~called])
    assert ((got - base)[called].abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def step_gradients(pipe: Any, config: LoraConfig) -> list[Tensor]:
    bank = encode(concept_pictures(config, SIZE), config.concept, pipe)
    rng = torch.Generator().manual_seed(2)
    with adapted(pipe, config) as (gated, parameters):
        settings = config.settings
        alphas = pipe.scheduler.alphas_cumprod
        noise, align = batch_loss(pipe, [(bank, 3)], settings, alphas, rng, gated)
        (noise + settings.align * align).backward()
        return [p.grad.clone() for p in parameters if p.grad is not None]


def test_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True, align=0.5)
    pipe = tiny_pipeline()
    plain = step_gradients(pipe, config)
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()
    torch.testing.assert_close(step_gradients(pipe, config), plain)
    assert any(g.abs().max() > 1e-4 for g in plain)


def test_a_compiled_layer_follows_the_words_of_every_step(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True, targets="attention")
    first = drawn(pipe, config)
    second = replace(first, words=first.words.rows(torch.arange(6).flip(0)))
    assert not torch.equal(first.words.trigger, second.words.trigger)
    with adapted(pipe, config) as (gated, _), torch.no_grad():
        layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
        compiled = torch.compile(layer, backend="eager")
        image = torch.randn(6, 16, 32)
        for batch in (first, second, first):
            gated.see(batch.words)
            expected = layer(image, batch.texts)
            torch.testing.assert_close(compiled(image, batch.texts), expected)
    torch.compiler.reset()


# The file


@pytest.mark.parametrize("targets", ["keys_values", "cross", "attention_ff"])
def test_the_file_under_tara_is_the_adapter_as_it_was_trained(
    pipe: Any, tmp_path: Path, targets: str
) -> None:
    config = configure(tmp_path, tara=True, targets=targets)
    path, prompt = tmp_path / "mine.safetensors", "a <v1> cat beside a <v1> at night"
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    words = find_words([prompt, ""], "<v1>", "cat", pipe.tokenizer, torch.device("cpu"))
    with adapted(pipe, config) as (gated, _), torch.no_grad():
        texts = pipe.encode_prompt([prompt, ""], "cpu", 1, False)[0]
        gated.see(words)
        times = torch.full((2,), 999)
        trained = pipe.unet(latents.expand(2, -1, -1, -1), times, texts, return_dict=False)[0]
        own = lora.factors(pipe.unet, lora._NAME, 1.0)
    write(path, own, lora.header(config, pipe, "", 0.0))
    with engine.composer(pipe=pipe) as composer:
        got = predictions(composer, Request(prompt, adapters=(AdapterUse(str(path)),)), latents)
    torch.testing.assert_close(got["cond"], trained[:1], rtol=1e-5, atol=1e-5)
    if targets == "keys_values":  # else layers on image tokens act on the empty caption as well
        torch.testing.assert_close(got["uncond"], trained[1:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def predictions(composer: Composer, request: Request, latents: Tensor) -> dict[str, Tensor]:
    """What the passes of the first step predict, the negative prompt's without the adapter."""
    method = TaraMethod(uncond=False)
    prepared = composer.prepare(replace(request, method=method, guidance=3.0, steps=2))
    composer._install(prepared.adapters)
    run = composer._run(prepared.request, prepared.adapters, (0,))
    run.state = method.prepare(run)
    step = run.schedule.step(0)
    assert int(step.t) == 999
    return run.predict(latents, step, method.passes(run, step))


def test_the_header_says_what_it_is_made_for(pipe: Any, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    config = configure(tmp_path, tara=True, targets="keys_values")
    lora.train_lora(config, pipe=pipe, out=out)
    with safe_open(out, "pt") as file:
        own = json.loads(file.metadata()["lora_compose"])
    assert own["made_for"] == "tara" and own["training"]["tara"] is True
    assert (own["training"]["align"], own["training"]["align_power"]) == (1.0, 1)
    assert own["final_align"] > 0 and own["final_loss"] > 0
    assert inspect(out)["made_for"] == "tara"
    lora.train_lora(configure(tmp_path), pipe=pipe, out=out)
    assert inspect(out)["made_for"] == ""


# What cannot be done


def test_captions_without_the_trigger_are_refused(pipe: Any, tmp_path: Path) -> None:
    config = configure(tmp_path, tara=True)
    other = replace(config, concept=replace(config.concept, trigger="<v2>"))
    bank = encode(concept_pictures(config, SIZE), other.concept, pipe)
    with pytest.raises(ConceptError, match="none of the 4 captions has the trigger '<v2>'"):
        check_words(other, bank.words.rows(torch.arange(1, 5)))


def test_prior_rows_are_not_called(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("compose.train.lora_data._PRIOR_SCENES", 4)
    config = configure(tmp_path, tara=True, prior=0.5, batch=4)
    (own, _), (prior, count) = lora._banks(config, pipe)
    assert count == 2 and not prior.words.trigger.any() and not prior.words.both.any()
    assert own.words.both[1:].all() and not own.words.both[0]
    with caplog.at_level(logging.WARNING):
        assert lora.train_lora(config, pipe=pipe, out=tmp_path / "mine.safetensors").is_file()
    assert caplog.records == []
