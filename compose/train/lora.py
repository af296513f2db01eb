"""Train one LoRA on a Stable Diffusion 1.x shaped pipeline.

The factors are PEFT's, the model is diffusers'; what is here draws batches, computes the loss and
leaves the base as it found it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from compose.device import pick_device
from compose.errors import ConceptError, MissingExtraError, ModelError
from compose.train.lora_config import TARGETS, LoraConfig, LoraSettings, load_config
from compose.train.lora_data import (
    Bank,
    concept_pictures,
    encode,
    picture_size,
    prior_pictures,
    warn_of_words,
)
from compose.train.lora_file import base_fingerprint, check_target, factors, header, write
from compose.train.lora_loss import batch_loss
from compose.train.lora_tara import Tara, tara
from compose.train.lora_words import check_words

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the loss of the latest step."""

_NAME = "lora_compose_training"
_LAST_LR = 0.1  # of the first
_REPORT_EVERY = 10  # steps; a report waits for the GPU


def train_file(
    path: str | Path,
    *,
    model: str | Path,
    out: str | Path | None = None,
    device: str | torch.device = "auto",
    overrides: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train the adapter that a concept file describes.

    Args:
        path: the concept's YAML file.
        model: folder of the base pipeline.
        out: the adapter's file, or a folder; ``out/<name>.safetensors`` when None.
        device: "auto", "cpu", "cuda", or a device.
        overrides: settings that win over the file's, see `LoraSettings`.
        progress: called as training goes on.

    Returns:
        The file that was written.

    Raises:
        ConceptError: the concept file or a setting is wrong.
        ModelError: the base cannot be loaded or trained.
        RequestError: the device does not exist or the file cannot be written.
    """
    where = device if isinstance(device, torch.device) else pick_device(device)
    config = load_config(path, gpu=where.type == "cuda", overrides=overrides)
    target = Path("out" if out is None else out)
    if target.is_dir() or not target.suffix:
        target = target / file_name(config)
    check_target(target)
    return train_lora(
        config, pipe=load_pipeline(model), device=where, out=target, progress=progress
    )


def file_name(config: LoraConfig, suffix: str = "") -> str:
    """The file that a concept's name asks for.

    Args:
        config: of the training.
        suffix: behind the name, such as "-tara".

    Raises:
        ConceptError: the name would lead elsewhere.
    """
    name = config.concept.name and config.concept.name + suffix
    if not name or Path(name).name != name:
        raise ConceptError(f"name is {name!r}, expected one that can be a file's; give --out FILE")
    return f"{name}.safetensors"


def load_pipeline(model: str | Path) -> StableDiffusionPipeline:
    """Load a base for training: fp32, without safety checker, from this machine only.

    Raises:
        ModelError: the folder does not hold such a pipeline.
    """
    from diffusers import StableDiffusionPipeline

    from compose.models.folder import INDEX, read_pipeline

    folder = Path(model)
    if (
        not (folder / INDEX).is_file()
        or read_pipeline(folder).name != StableDiffusionPipeline.__name__
    ):
        raise ModelError(
            f"model {folder} was given, a folder of a Stable Diffusion 1.x pipeline is expected"
        )
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=torch.float32,
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"model {folder} cannot be loaded ({reason}); give a folder that diffusers saved"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def train_lora(
    config: LoraConfig,
    *,
    pipe: StableDiffusionPipeline,
    out: Path,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Path:
    """Train one adapter and write its file.

    Args:
        config: what to teach and how.
        pipe: the base in fp32; moved to `device`, else left as it was, also after an interruption.
        out: the adapter's file, written at the very end.
        device: where to train. On CUDA the UNet runs in bf16 autocast.
        progress: called after every step on the CPU, every tenth on a GPU.

    Returns:
        `out`.

    Raises:
        ConceptError: the pictures cannot be read or the settings do not fit the base.
        ModelError: the base cannot be trained, or training diverged.
    """
    check_target(out)
    check_base(config, pipe)
    pipe.to(device)
    settings = config.settings
    fingerprint = base_fingerprint(pipe.unet)
    banks = _banks(config, pipe)
    with adapted(pipe.unet, settings) as parameters, _in_training(pipe, settings) as gated:
        losses = _optimise(pipe, parameters, banks, settings, progress, gated)
        tensors = factors(pipe.unet, _NAME, settings.alpha / settings.rank)
    write(out, tensors, header(config, pipe, fingerprint, *losses))
    return out


def _in_training(
    pipe: StableDiffusionPipeline, settings: LoraSettings
) -> AbstractContextManager[Tara | None]:
    """TARA where the settings ask for it."""
    return tara(pipe, _NAME, settings.align_power) if settings.tara else nullcontext()


def _banks(config: LoraConfig, pipe: StableDiffusionPipeline) -> list[tuple[Bank, int]]:
    """What every batch is drawn from: encoded pictures, and how many of them."""
    concept, settings, size = config.concept, config.settings, picture_size(pipe)
    pictures = concept_pictures(config, size)
    warn_of_words(config, pictures, pipe)
    prior = min(round(settings.batch * settings.prior), settings.batch - 1)
    bank = encode(pictures, concept, pipe)
    if settings.tara:
        check_words(config, bank.words.rows(torch.arange(1, len(bank.texts))))
    banks = [(bank, settings.batch - prior)]
    if prior:
        banks.append((encode(prior_pictures(config, size), concept, pipe), prior))
    return banks


def check_base(config: LoraConfig, pipe: StableDiffusionPipeline) -> None:
    """Refuse what cannot be trained as asked, before any work."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError(
            "training needs PEFT, which is not installed; pip install 'lora-compose[train]'"
        )
    kind = str(pipe.scheduler.config.prediction_type)
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"the base predicts {kind!r}, epsilon or v_prediction is expected; choose another base"
        )
    if pipe.unet.dtype != torch.float32:
        raise ModelError(
            f"the base is in {pipe.unet.dtype}, torch.float32 is expected; load it with that dtype"
        )
    if getattr(pipe.unet, "peft_config", None):
        raise ModelError(
            f"the base already carries adapters ({', '.join(pipe.unet.peft_config)}), none are "
            "expected; unload them first"
        )
    if config.settings.prior and "<v1>" not in pipe.tokenizer.get_vocab():
        raise ConceptError(
            f"train.prior is {config.settings.prior:g}, but only the embedded model knows the "
            "drawn scenes that it would be trained on; 0 is expected for other bases"
        )


@contextmanager
def adapted(unet: UNet2DConditionModel, settings: LoraSettings) -> Iterator[list[nn.Parameter]]:
    """Give a UNet trainable factors for a while; afterwards it is as before, whatever happened.

    Args:
        unet: the base, without adapters.
        settings: rank, alpha, targets, seed.

    Yields:
        The factors. `lora_B` starts at zero, so the first forward is the base's.
    """
    from peft import LoraConfig as PeftConfig

    flags = [(parameter, parameter.requires_grad) for parameter in unet.parameters()]
    targets = list(TARGETS[settings.targets])
    try:
        with torch.random.fork_rng(devices=[]):  # PEFT draws on the CPU
            torch.manual_seed(settings.seed)
            unet.add_adapter(
                PeftConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets),
                _NAME,
            )
        yield [parameter for parameter in unet.parameters() if parameter.requires_grad]
    finally:
        unet.unload_lora()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None


def _optimise(
    pipe: StableDiffusionPipeline,
    parameters: list[nn.Parameter],
    banks: list[tuple[Bank, int]],
    settings: LoraSettings,
    progress: Progress | None,
    tara: Tara | None = None,
) -> tuple[float, float]:
    """Run every step; returns the mean of either loss over the last tenth of them."""
    device = parameters[0].device
    rng = torch.Generator(device).manual_seed(settings.seed)
    alphas = pipe.scheduler.alphas_cumprod.to(device, torch.float32)
    optimizer = torch.optim.AdamW(
        parameters, settings.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type == "cuda"
    )
    losses = torch.zeros(settings.steps, 2, device=device)
    every = _REPORT_EVERY if device.type == "cuda" else 1
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * cosine(step / settings.steps)
        noise, align = batch_loss(pipe, banks, settings, alphas, rng, tara)
        torch.autograd.backward(noise + settings.align * align)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses[step] = torch.stack((noise, align)).detach()
        if progress and ((step + 1) % every == 0 or step + 1 == settings.steps):
            progress(step + 1, settings.steps, losses[step, 0].item())
    last = losses[-max(1, settings.steps // 10) :].mean(dim=0)
    return last[0].item(), last[1].item()


def cosine(done: float) -> float:
    """Share of the first learning rate after a part `done` of the steps: 1 at 0, 0.1 at 1."""
    return _LAST_LR + (1 - _LAST_LR) * 0.5 * (1 + math.cos(math.pi * done))
