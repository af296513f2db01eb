"""Train the base model of the embedded world: a small UNet and its text encoder, together, from
nothing or from the weights of an earlier one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.train.common import (
    Clock,
    Ema,
    RunDir,
    adamw,
    cosine,
    require_finite,
    set_rate,
)
from compose.train.latents import Latents, load_latents
from compose.train.pace import Pace
from compose.train.parts import (
    build_text_encoder,
    build_unet,
    give_rare_tokens,
    noise_levels,
    spread_timesteps,
)
from compose.train.ranks import Ranks
from compose.train.start import adopt_vae, fresh_words, load_models
from compose.train.state import load_state, save_state
from compose.train.tokenizer import Lookup, load_tokenizer
from compose.world.captions import words
from compose.world.vocabulary import RARE_TOKENS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True)
class BaseOptions:
    """How to train the UNet and the text encoder.

    Attributes:
        run: run directory.
        minutes: whole budget of the schedule, over all calls, compilation not counted.
        deadline: `time.monotonic()` at which this call stops.
        seed: of weights, noise and order.
        batch: samples per GPU and step.
        lr: peak learning rate; half of it does where weights are taken over.
        caption_dropout: share of empty captions, for guidance.
        emphasis: how much more the error counts where an accessory is: small and rare as they are,
            their colours are learned last.
        width: channels of the UNet's levels, without `init`.
        text_width: width of the text encoder, and of the cross attention, without `init`.
        compile: use torch.compile on the UNet.
        init: pipeline folder of weights to start from; a checkpoint of the run goes before. Its
            VAE serves a run without one of its own.
        max_steps: stop this call after so many steps, for tests.
    """

    run: Path
    minutes: float
    deadline: float
    seed: int = 0
    batch: int = 512
    lr: float = 8e-4
    caption_dropout: float = 0.1
    emphasis: float = 4.0
    width: tuple[int, int, int] = (64, 128, 192)
    text_width: int = 192
    compile: bool = True
    init: Path | None = None
    max_steps: int | None = None


class Training:
    """State of a base training between steps."""

    def __init__(self, ranks: Ranks, options: BaseOptions, tokenizer: CLIPTokenizer) -> None:
        self.ranks, self.options = ranks, options
        self.lookup = Lookup.of(tokenizer)
        device = ranks.device
        torch.manual_seed(options.seed)
        self.models = _models(options, tokenizer, self.lookup).to(device)
        self.models["unet"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.unet: Callable[..., Any] = self.models["unet"]
        if options.compile:
            self.unet = torch.compile(self.models["unet"])
        self.ema = Ema(self.models, 0.9993)
        self.parameters = [value for value in self.models.parameters() if value.requires_grad]
        self.optimiser = adamw(self.parameters, options.lr, device)
        self.clock = Clock(options.minutes * 60, options.deadline)
        self.signal, self.noise = noise_levels(device)
        self.empty = torch.tensor(self.lookup.encode(""), device=device)
        self.step = self.samples = 0
        self.path = RunDir(options.run).stage("unet") / "state.safetensors"
        if self.path.exists():
            self.restore()
        self.generator = torch.Generator(device).manual_seed(
            options.seed * 1000 + ranks.rank + 7919 * self.step + 1
        )

    def restore(self) -> None:
        """Continue from the last checkpoint of the run."""
        state = load_state(self.path, self.ranks.device)
        self.models.load_state_dict(state["models"])
        self.ema.restore(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.samples, self.clock.spent = (
            int(state["step"]),
            int(state["samples"]),
            float(state["spent"]),
        )

    def save(self) -> None:
        """Write the checkpoint."""
        state: dict[str, Any] = {
            "models": self.models.state_dict(), "ema": self.ema.state(),
            "optimiser": self.optimiser.state_dict(), "step": self.step, "samples": self.samples,
            "spent": self.clock.elapsed,
        }  # fmt: skip
        save_state(state, self.path)

    def draw(self, data: Latents) -> tuple[Tensor, Tensor, Tensor]:
        """A batch: latents [B, 4, 32, 32] float32, token ids [B, 40], some of them empty, and the
        weight of each place [B, 1, 32, 32]."""
        count, device = self.options.batch, self.ranks.device
        picks = torch.randint(len(data.mean), (count,), generator=self.generator, device=device)
        which = torch.randint(
            data.tokens.shape[1], (count,), generator=self.generator, device=device
        )
        mean, std = data.mean[picks].float(), data.std[picks].float()
        latents = mean + std * torch.randn(mean.shape, generator=self.generator, device=device)
        dropped = (
            torch.rand(count, 1, generator=self.generator, device=device)
            < self.options.caption_dropout
        )
        tokens = torch.where(dropped, self.empty, data.tokens[picks, which].long())
        weight = 1 + self.options.emphasis * data.worn[picks].float()[:, None] / 255
        return latents.contiguous(memory_format=torch.channels_last), tokens, weight

    def loss(self, latents: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean squared error of the predicted velocity [], at timesteps spread over the
        batch."""
        device = latents.device
        steps = spread_timesteps(len(latents), self.generator, device)
        signal, noise = (table[steps][:, None, None, None] for table in (self.signal, self.noise))
        epsilon = torch.randn(latents.shape, generator=self.generator, device=device)
        epsilon = epsilon.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            context = self.models["text_encoder"](input_ids=tokens)[0]
            predicted = self.unet(
                signal * latents + noise * epsilon, steps, context, return_dict=False
            )[0]
        error: Tensor = predicted.float() - (signal * epsilon - noise * latents)
        return (weight * error.square()).mean()

    def advance(self, data: Latents, progress: float) -> Tensor:
        """One optimiser step; returns the loss []."""
        loss = self.loss(*self.draw(data))
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.ranks.share_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        set_rate(self.optimiser, self.options.lr * cosine(progress, (self.step + 1) / 200, 0.03))
        self.optimiser.step()
        self.ema.update()
        self.step += 1
        self.samples += self.options.batch * self.ranks.size
        return loss.detach()

    def warm_up(self, data: Latents) -> None:
        """Compile forward and backward before the clock starts; nothing is learned."""
        torch.autograd.backward(self.loss(*self.draw(data)))
        self.optimiser.zero_grad(set_to_none=True)
        self.ranks.barrier()


def _models(options: BaseOptions, tokenizer: CLIPTokenizer, lookup: Lookup) -> nn.ModuleDict:
    if options.init is not None:
        return load_models(options.init, tokenizer)
    text = build_text_encoder(len(tokenizer), lookup.start, lookup.end, options.text_width)
    return nn.ModuleDict(
        {"unet": build_unet(options.width, options.text_width), "text_encoder": text}
    )


def _loop(training: Training, data: Latents, run: RunDir) -> bool:
    """Train until the budget or the call ends; returns whether the budget is used up."""
    ranks, clock, pace = training.ranks, training.clock, Pace(training)
    first, logged, seen = training.step, clock.elapsed, training.samples
    total = torch.zeros((), device=ranks.device)
    for progress in pace:
        total += training.advance(data, progress)
        if training.step % 100 == 0:
            value = ranks.mean(total) / min(100, training.step - first)
            require_finite(value, "unet", training.step)
            speed = (training.samples - seen) / max(clock.elapsed - logged, 1e-6)
            run.log(
                "unet",
                step=training.step,
                samples=training.samples,
                loss=value,
                per_second=speed,
                progress=progress,
            )
            logged, seen, total = clock.elapsed, training.samples, torch.zeros_like(total)
    return pace.finished


def train_base(ranks: Ranks, options: BaseOptions) -> None:
    """The stage unet: train within the budget and write RUN/unet/weights; mark it when finished."""
    run = RunDir(options.run, ranks.rank)
    tokenizer = load_tokenizer(options.run / "tokenizer")
    started = time.monotonic()
    if ranks.main:
        adopt_vae(run, options.init)
    ranks.barrier()
    data = load_latents(run, options.run / "vae" / "weights", ranks)
    run.log("unet", scenes=len(data.mean) * ranks.size, seconds_data=time.monotonic() - started)
    training = Training(ranks, options, tokenizer)
    if options.init is not None and training.step == 0:
        run.log("unet", init=str(options.init), fresh_words=" ".join(fresh_words(options.init)))
    ranks.same_weights(training.models)
    started = time.monotonic()
    training.warm_up(data)
    run.log("unet", seconds_compile=time.monotonic() - started)
    finished = _loop(training, data, run)
    ranks.barrier()
    if not ranks.main:
        return
    training.save()
    _write_weights(training, run)
    if finished:
        run.mark("unet", options.minutes)
    else:
        run.log("unet", paused_at_step=training.step, progress=training.clock.progress)


def _write_weights(training: Training, run: RunDir) -> None:
    """Write the averaged weights with the rare tokens baked in; leaves the checkpoint alone."""
    training.ema.copy_to(training.models)
    text: Any = training.models["text_encoder"]
    unet: Any = training.models["unet"]
    rare = [training.lookup.ids[token] for token in RARE_TOKENS]
    learned = [training.lookup.ids[word] for word in words()]
    give_rare_tokens(text.get_input_embeddings().weight, rare, learned, training.options.seed)
    folder = run.stage("unet") / "weights"
    unet.save_pretrained(folder / "unet")
    text.save_pretrained(folder / "text_encoder")
