"""Load a base model that has been found."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from compose.device import out_of_memory, pick_dtype
from compose.errors import ModelError, RequestError
from compose.models.card import ModelCard, read_card
from compose.models.checkpoint import Checkpoint
from compose.models.detect import family_of
from compose.models.family import Family
from compose.models.folder import UNUSED, Part, stored_quantized
from compose.models.options import USUAL, LoadOptions
from compose.models.quantization import configs
from compose.models.routing import require
from compose.models.source import GGUF, Source, find


def load(
    model: str, *, device: torch.device, dtype: str = "auto", options: LoadOptions = USUAL
) -> Family:
    """Load a base model from disk.

    Args:
        model: as for `find`.
        device: where it is to work.
        dtype: of its weights: "auto" (fp32 on a CPU, on a GPU what suits the family), "fp32",
            "bf16" or "fp16".
        options: where parts come from, and what is done to fit them into memory.

    Raises:
        ModelError, MissingExtraError: as for `find`, or the files do not fit together.
        RequestError: an unknown dtype, or options that make no sense together or here.
        KernelUnavailableError: an attention back end that does not run here.
    """
    options.check_device(device.type)
    source = find(model, options)
    _check_together(source, options)
    chosen = pick_dtype(dtype, device, source.family.half)
    if options.attention_backend is not None:
        require(options.attention_backend, device, chosen)
    with _told(source):
        pipe = _Reader(source, chosen, options.quantize).pipe()
    pipe.set_progress_bar_config(disable=True)
    if options.vae_tiling:
        pipe.vae.enable_tiling()
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    card = read_card(source.pipeline.folder) if source.checkpoint is None else ModelCard()
    family = family_of(pipe, card)
    if options.attention_backend is not None:
        family.use_attention_backend(options.attention_backend)
    return family


def _check_together(source: Source, options: LoadOptions) -> None:
    """Refuse options that exclude each other for a model."""
    stored = [p for p in stored_quantized(source.pipeline) if p not in source.elsewhere]
    if source.denoiser is not None and source.denoiser.suffix == GGUF:
        stored.append(source.family.denoiser_name)
    if options.quantize != "none" and (stored or source.checkpoint is not None):
        why = (
            f"{', '.join(stored)} is stored quantised already"
            if stored
            else "the model is one file, whose layers can be quantised only as they lie there"
        )
        raise RequestError(
            f"quantize {options.quantize} was asked for, but {why}; expected plain weights in a"
            " diffusers folder, so drop --quantize"
        )
    if options.offload == "sequential" and (stored or options.quantize != "none"):
        raise RequestError(
            "offload sequential was asked for with quantised weights, which cannot be moved layer"
            " by layer; expected --offload model or none"
        )


class _Reader:
    """Loads the parts of a model that has been found, and puts them together."""

    def __init__(self, source: Source, dtype: torch.dtype, quantize: str) -> None:
        self.source = source
        self.folder = str(source.pipeline.folder)
        self.parts = {part.name: part for part in source.pipeline.parts}
        self.common: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
        self.configs = configs(quantize, self._large(), dtype)

    def _large(self) -> dict[str, str]:
        """Components worth quantising, with their library."""
        names = [self.source.family.denoiser_name]
        names += [n for n, part in self.parts.items() if part.kind == "T5EncoderModel"]
        return {name: self.parts[name].library for name in names}

    def pipe(self) -> Any:
        """The whole pipeline, on the CPU unless its quantisation works on the GPU."""
        kind: Any = getattr(diffusers, self.source.pipeline.name)
        accepted = inspect.signature(kind.__init__).parameters
        absent = (*UNUSED, *self.source.pipeline.absent)
        given: dict[str, Any] = {name: None for name in absent if name in accepted}
        if "requires_safety_checker" in accepted:
            given["requires_safety_checker"] = False
        checkpoint = self.source.checkpoint
        if self.source.denoiser is not None:
            given[self.source.family.denoiser_name] = self._denoiser(self.source.denoiser)
        if checkpoint is None:
            return kind.from_pretrained(self.folder, **given, **self._from_folder())
        for part in self.source.pipeline.networks(self.source.elsewhere):
            given[part.name] = self._part(part)
        pipe = kind.from_single_file(
            str(checkpoint.path), config=self.folder, **given, **self.common
        )
        _check_filled(pipe, checkpoint.path)
        return _marked(pipe, checkpoint)

    def _how(self) -> dict[str, Any]:
        """How weights are taken from the folder: never from pickles."""
        return {**self.common, "variant": self.source.variant, "use_safetensors": True}

    def _from_folder(self) -> dict[str, Any]:
        how = self._how()
        left = {n: c for n, c in self.configs.items() if n not in self.source.elsewhere}
        if left:
            how["quantization_config"] = diffusers.PipelineQuantizationConfig(quant_mapping=left)
        return how

    def _denoiser(self, path: Path) -> Any:
        part = self.parts[self.source.family.denoiser_name]
        config = self.configs.get(part.name)
        if path.suffix == GGUF:
            config = diffusers.GGUFQuantizationConfig(compute_dtype=self.common["dtype"])
        kind: Any = getattr(diffusers, part.kind)
        if not hasattr(kind, "from_single_file"):
            raise ModelError(
                f"{path} was given as denoiser of a {self.source.pipeline.name}, whose {part.kind}"
                " diffusers does not read from a file; expected its own, so drop --denoiser"
            )
        return kind.from_single_file(
            str(path),
            config=self.folder,
            subfolder=part.name,
            quantization_config=config,
            **self.common,
        )

    def _part(self, part: Part) -> Any:
        kind: Any = getattr(import_module(part.library), part.kind)
        return kind.from_pretrained(self.folder, subfolder=part.name, **self._how())


def _check_filled(pipe: Any, path: Path) -> None:
    """Refuse networks with parameters for which the file had nothing: they stay without values."""
    for name, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        if empty := [n for n, p in part.named_parameters() if p.is_meta]:
            raise ModelError(
                f"{path} lacks {len(empty)} tensors of {name}, such as {empty[0]}; expected all"
                " that the settings call for, so use settings that fit the file"
            )


def _marked(pipe: Any, checkpoint: Checkpoint) -> Any:
    """Follow what a checkpoint says about its training by the names it carries."""
    if "v_pred" in checkpoint.markers:
        own = pipe.scheduler
        zero = {"rescale_betas_zero_snr": True} if "ztsnr" in checkpoint.markers else {}
        pipe.scheduler = type(own).from_config(own.config, prediction_type="v_prediction", **zero)
    return pipe


@contextmanager
def _told(source: Source) -> Iterator[None]:
    """Turn what the libraries say about files that do not fit together into one line.

    Raises:
        ModelError: anything of that kind.
    """
    try:
        yield
    except NotImplementedError as error:  # torch's word for moving a parameter without values
        raise _misfit(source, "weights that the settings call for are missing") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if out_of_memory(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _misfit(source, first.rstrip(".")) from error


def _misfit(source: Source, why: str) -> ModelError:
    files = [source.denoiser, source.checkpoint and source.checkpoint.path, source.pipeline.folder]
    places = " with ".join(str(place) for place in files if place is not None)
    return ModelError(
        f"{places} could not be loaded: {why}; expected weights and settings that fit together"
    )
