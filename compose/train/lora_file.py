"""The adapter file: factors under diffusers' names, and a header that says what they are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from compose.adapters.saving import write_file
from compose.errors import ModelError, RequestError
from compose.train.lora_config import LoraConfig

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def base_fingerprint(unet: nn.Module) -> str:
    """16 hex digits of a base's tensor names and shapes: equal for bases that the same files fit.

    Args:
        unet: the base, without adapters.

    Returns:
        Start of the SHA-256 over sorted lines ``name shape``; the weights' values play no part.
    """
    lines = sorted(f"{name} {list(tensor.shape)}" for name, tensor in unet.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def base_names(pipe: StableDiffusionPipeline) -> tuple[str, str]:
    """What the base is called in `modelspec.architecture` and in `ss_base_model_version`."""
    if "<v1>" in pipe.tokenizer.get_vocab():
        return "lora-compose-world/lora", "lora_compose_world"
    widths = tuple(pipe.unet.config.block_out_channels)
    if widths == (320, 640, 1280, 1280) and pipe.unet.config.cross_attention_dim == 768:
        return "stable-diffusion-v1/lora", "sd_v1"
    return "stable-diffusion-v1-shaped/lora", "sd_v1_shaped"


def factors(unet: nn.Module, name: str, scale: float) -> dict[str, Tensor]:
    """The trained factors of one adapter, as they go into the file.

    Args:
        unet: the model with the adapter.
        name: the adapter's name in it.
        scale: alpha / rank, folded into `lora_B`: a file without alpha is read with scale 1
            everywhere.

    Returns:
        ``unet.<module>.lora_A.weight`` [r, d_in(, k, k)] and ``unet.<module>.lora_B.weight``
        [d_out, r(, 1, 1)], fp16.

    Raises:
        ModelError: training diverged, or a factor is too large for fp16.
    """
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = {}
    for key, tensor in sorted(get_peft_model_state_dict(unet, adapter_name=name).items()):
        folded = tensor.detach() * scale if ".lora_B." in key else tensor.detach()
        found[f"unet.{key}"] = folded.to("cpu", torch.float16).contiguous()
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        raise ModelError(
            "training diverged: factors are not finite in fp16, finite ones are expected; "
            "lower train.lr or train.alpha"
        )
    return found


def header(
    config: LoraConfig,
    pipe: StableDiffusionPipeline,
    fingerprint: str,
    loss: float,
    align: float = 0.0,
) -> dict[str, str]:
    """What the file says about itself.

    ModelSpec 1.0.1 keys, kohya's `ss_` keys that other tools read, and our own. No date and no
    machine: the same training gives the same bytes.

    Args:
        config: what was trained.
        pipe: on what.
        fingerprint: of the base, see `base_fingerprint`.
        loss: mean error of the prediction over the last tenth of the steps.
        align: mean alignment loss of TARA over them.
    """
    concept, settings = config.concept, config.settings
    architecture, version = base_names(pipe)
    size = int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)
    rank = str(settings.rank)
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": concept.name,
        "modelspec.description": concept.description
        or f"A {concept.category} called {concept.trigger}.",
        "modelspec.trigger_phrase": concept.trigger,
        "modelspec.tags": ", ".join(filter(None, (concept.category, concept.class_word))),
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.prediction_type": "v" if _velocity(pipe) else "epsilon",
        "ss_output_name": concept.name,
        "ss_network_dim": rank,
        "ss_network_alpha": rank,  # alpha / rank lies in lora_B
        "ss_network_module": "peft.tuners.lora",
        "ss_base_model_version": version,
        "ss_resolution": f"({size}, {size})",
        "lora_compose": json.dumps(
            _own(config, fingerprint, loss, align), sort_keys=True, default=str
        ),
    }


def _own(config: LoraConfig, fingerprint: str, loss: float, align: float) -> dict[str, Any]:
    """Our part of the header: what the adapter library shows, and all that a repetition needs."""
    tara = {"made_for": "tara", "final_align": round(align, 6)} if config.settings.tara else {}
    return {
        **tara,
        "format": 1,
        "category": config.concept.category,
        "trigger": config.concept.trigger,
        "class_word": config.concept.class_word,
        "concept": config.source,
        "base": fingerprint,
        "training": asdict(config.settings),
        "seed": config.settings.seed,
        "final_loss": round(loss, 6),
    }


def _velocity(pipe: StableDiffusionPipeline) -> bool:
    return str(pipe.scheduler.config.prediction_type) == "v_prediction"


def check_target(out: Path) -> None:
    """See before the work whether the file can be written.

    Raises:
        RequestError: it cannot.
    """
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    if out.suffix != ".safetensors" or out.is_dir():
        raise RequestError(
            f"{out} was given as the adapter's file, a name ending in .safetensors is expected"
        )
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RequestError(
            f"{out} was given as the adapter's file, but {parent} cannot be written to; "
            "choose another folder"
        )


def write(out: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file whole or not at all, byte for byte the same for the same content.

    Args:
        out: where; folders are made.
        tensors: as `factors` gives them.
        metadata: the header's texts.
    """
    payload = save(dict(tensors))
    length = int.from_bytes(payload[:8], "little")
    digest = hashlib.sha256(memoryview(payload)[8 + length :]).hexdigest()
    write_file(out, tensors, {**metadata, "sshs_model_hash": digest})
