"""What a single safetensors file holds, told from the names and shapes in its header. No tensor is
loaded.

Names are those of the original code of each model, which checkpoints of one file keep, and those of
diffusers where a file is one part of a diffusers folder. The signs are names that
``diffusers/loaders/single_file_utils.py`` and ComfyUI's ``comfy/model_detection.py`` go by as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compose.adapters import keys
from compose.adapters.bases import label
from compose.adapters.safe import Header, TensorInfo, read_header, shown
from compose.errors import AdapterFormatError, ModelError

MAX_FILE = 2**40
"""Largest file that is read, in bytes."""

_INNER = "model.diffusion_model."  # before the denoiser's names in a whole model
_SETTINGS = {  # base to the hub id whose settings suit it, where its variants do not differ
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
_PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}
_CLIP = "transformer.text_model.embeddings.position_embedding.weight"
_T5 = "text_encoders.t5xxl.transformer.shared.weight"
_TEXT: Mapping[
    str, Mapping[str, str]
] = {  # base to component to a name that its part of a file has
    "sd15": {"text_encoder": f"cond_stage_model.{_CLIP}"},
    "sd2": {"text_encoder": "cond_stage_model.model.token_embedding.weight"},
    "sdxl": {
        "text_encoder": f"conditioner.embedders.0.{_CLIP}",
        "text_encoder_2": "conditioner.embedders.1.model.positional_embedding",
    },
    "sd3": {
        "text_encoder": f"text_encoders.clip_l.{_CLIP}",
        "text_encoder_2": f"text_encoders.clip_g.{_CLIP}",
        "text_encoder_3": _T5,
    },
    "flux": {"text_encoder": f"text_encoders.clip_l.{_CLIP}", "text_encoder_2": _T5},
}
_CROSS = re.compile(r"attn2\.to_k\.weight$")

# Signs of other things, in the order in which they are looked for. A whole model comes with a VAE
# and text encoders, so their own signs count only where there is no denoiser.
_OTHERS = tuple(
    (re.compile(sign), what)
    for sign, what in (
        (r"^control(?:_model\.|net_|_layers\.|_all_)", "a ControlNet; expected a base model"),
        (r"^(?:image_proj|ip_adapter)\.", "an IP-Adapter; expected a base model"),
        (r"motion_modules\.", "an AnimateDiff motion module; expected a base model"),
        (r"^(?:edm_mean|edm_std)$", "Playground v2.5, which is not supported"),
        (r"distilled_guidance_layer\.", "Chroma, which is not supported"),
        (r"individual_token_refiner", "HunyuanVideo, which is not supported"),
        (r"(?:double|single)_stream_modulation", "FLUX.2, which is not supported"),
    )
)
_PARTS = tuple(
    (re.compile(sign), what)
    for sign, what in (
        (r"^(?:first_stage_model\.|vae\.)?(?:en|de)coder\.(?:down|up|mid|conv_)", "a VAE"),
        (r"text_model\.encoder\.layers\.|^resblocks\.", "a CLIP text encoder"),
        (r"^(?:encoder|decoder)\.block\.\d+\.layer\.", "a T5 text encoder"),
        (r"^(?:emb_params|clip_[lg]|string_to_param)", "a textual inversion embedding"),
    )
)


@dataclass(frozen=True)
class Checkpoint:
    """A file with the denoiser of a base model, and perhaps more of it.

    Attributes:
        path: the file.
        base: short name, as `compose.adapters.bases.LABELS` has it.
        pipeline: name of the diffusers pipeline that it belongs to.
        settings: hub id of a pipeline whose settings suit it.
        parts: components that it holds.
        markers: which of "v_pred" and "ztsnr" it carries: names by which SDXL checkpoints say that
            they were trained on v-prediction and on a noise schedule that ends in pure noise.
    """

    path: Path
    base: str
    pipeline: str
    settings: str
    parts: tuple[str, ...]
    markers: frozenset[str] = frozenset()

    @property
    def whole(self) -> bool:
        """Whether it holds more than the denoiser."""
        return len(self.parts) > 1


def read_model_header(path: Path) -> Header:
    """Read and check the header of a file with weights of a model.

    Raises:
        ModelError: no file, another format, cut short, or a header that contradicts itself.
    """
    try:
        return read_header(path, largest=MAX_FILE)
    except AdapterFormatError as error:
        raise ModelError(str(error)) from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Tell what a file holds, and refuse what is no base model.

    Raises:
        ModelError: an unsound file, a LoRA, a ControlNet, a VAE and so on, a model of an unknown or
            unsupported kind.
    """
    tensors = read_model_header(path).tensors
    other = _other(tensors)
    if other:
        raise ModelError(f"{_at(path)} holds {other}")
    inner = any(name.startswith(_INNER) for name in tensors)
    base, settings, denoiser = _denoiser(path, tensors, _INNER if inner else "")
    parts = [denoiser]
    if any(name.startswith(("first_stage_model.", "vae.")) for name in tensors):
        parts.append("vae")
    parts += [part for part, sign in _TEXT[base].items() if sign in tensors]
    markers = frozenset({"v_pred", "ztsnr"} & set(tensors))
    return Checkpoint(path, base, _PIPELINES[base], settings, tuple(parts), markers)


def _other(tensors: Mapping[str, TensorInfo]) -> str:
    """What a file holds instead of a base model; empty when it may be one."""
    factors = (keys.parse(name) for name in tensors)
    if any(key is not None and key.role != "alpha" for key in factors):
        return "a LoRA; expected a base model, so give this file with --lora"
    for sign, what in _OTHERS:
        if any(sign.search(name) for name in tensors):
            return what
    return ""


def _denoiser(path: Path, tensors: Mapping[str, TensorInfo], prefix: str) -> tuple[str, str, str]:
    """Base, hub id of its settings, and component name of the denoiser."""
    here = {n.removeprefix(prefix): t.shape for n, t in tensors.items() if n.startswith(prefix)}
    for entry, pooled in (
        ("input_blocks.0.0.weight", "label_emb.0.0.weight"),
        ("conv_in.weight", "add_embedding.linear_1.weight"),
    ):
        if entry in here and ("out.2.weight" in here or "conv_norm_out.weight" in here):
            _check_channels(path, here[entry], 4)
            base = _unet(path, tensors, pooled in here)
            return base, _SETTINGS[base], "unet"
    for image, entry, guided in (
        ("double_blocks.0.img_mod.lin.weight", "img_in.weight", "guidance_in.in_layer.weight"),
        (
            "single_transformer_blocks.0.attn.norm_q.weight",
            "x_embedder.weight",
            "time_text_embed.guidance_embedder.linear_1.weight",
        ),
    ):
        if image in here and entry in here:
            _check_channels(path, here[entry], 64)
            variant = "dev" if guided in here else "schnell"
            return "flux", f"black-forest-labs/FLUX.1-{variant}", "transformer"
    for entry, last, second in (
        ("x_embedder.proj.weight", "joint_blocks.37.x_block.attn.qkv.weight", "x_block.attn2."),
        ("pos_embed.proj.weight", "transformer_blocks.37.attn.to_q.weight", ".attn2.to_q."),
    ):
        if entry in here and ("context_embedder.weight" in here):
            _check_channels(path, here[entry], 16)
            medium = any(second in name for name in here)
            name = "3.5-large" if last in here else "3.5-medium" if medium else "3-medium-diffusers"
            return "sd3", f"stabilityai/stable-diffusion-{name}", "transformer"
    raise ModelError(f"{_at(path)} holds {_named(tensors)}")


def _named(tensors: Mapping[str, TensorInfo]) -> str:
    """What a file without a known denoiser seems to hold."""
    for sign, what in _PARTS:
        if any(sign.search(name) for name in tensors):
            return f"{what} alone; expected a whole base model"
    other = keys.unsupported(tensors)
    if other:
        return f"an adapter, {other[1]}; expected a base model"
    first = shown(next(iter(tensors), "no tensor at all"))
    bases = ", ".join(label(base) for base in _PIPELINES)
    return f"no model that is known here (its first tensor: {first}); expected one of {bases}"


def _unet(path: Path, tensors: Mapping[str, TensorInfo], pooled: bool) -> str:
    """Which Stable Diffusion a UNet is; `pooled` where it takes a pooled text as well."""
    width = next((i.shape[1] for n, i in tensors.items() if _CROSS.search(n)), None)
    if not pooled:
        openclip = _TEXT["sd2"]["text_encoder"] in tensors
        return "sd2" if width == 1024 or (openclip and width != 768) else "sd15"
    if width == 1280 or "conditioner.embedders.0.model.positional_embedding" in tensors:
        raise ModelError(
            f"{_at(path)} holds the refiner of Stable Diffusion XL, which only finishes pictures of"
            " the base model; expected the base model"
        )
    if width == 1024:
        raise ModelError(f"{_at(path)} holds Stable Diffusion 2.1 unCLIP, which is not supported")
    return "sdxl"


def _check_channels(path: Path, shape: tuple[int, ...], expected: int) -> None:
    if len(shape) > 1 and shape[1] != expected:
        raise ModelError(
            f"{_at(path)} holds a denoiser that takes {shape[1]} channels (one for inpainting,"
            f" upscaling, editing or a control picture); expected a text-to-image model, with"
            f" {expected}"
        )


def _at(path: Path) -> str:
    return shown(path, 400)
