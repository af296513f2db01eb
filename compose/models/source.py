"""Find a base model and see that all of it is there. No tensor is loaded, nothing downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from compose.adapters.bases import label
from compose.errors import ModelError
from compose.models.backends import BACKENDS
from compose.models.checkpoint import Checkpoint, read_checkpoint
from compose.models.detect import EMBEDDED, family_named, model_pipeline
from compose.models.family import Family
from compose.models.folder import (
    INDEX,
    Pipeline,
    check_settings,
    check_weights,
    deciding_files,
    has_weights,
    read_pipeline,
    stored_quantized,
)
from compose.models.options import USUAL, LoadOptions
from compose.models.quantization import EXTRAS, PACKAGES, need

GGUF = ".gguf"
_PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class Source:
    """A base model that has been found and seems whole. No tensor of it is loaded yet.

    Attributes:
        pipeline: folder with its settings, and with the weights that lie nowhere else.
        checkpoint: the file with its weights, for a model in one file.
        denoiser: file with other weights for the denoiser.
        variant: of the folder's weights, such as "fp16".
    """

    pipeline: Pipeline
    checkpoint: Checkpoint | None = None
    denoiser: Path | None = None
    variant: str | None = None

    @property
    def family(self) -> type[Family]:
        """The family that it belongs to."""
        return family_named(self.pipeline.name, str(self.pipeline.folder))

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Parts whose weights do not come from the folder."""
        mine = () if self.checkpoint is None else self.checkpoint.parts
        return mine if self.denoiser is None else (*mine, self.family.denoiser_name)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Files that decide what it draws, each with a name that no move of the model changes."""
        if self.checkpoint is not None:
            yield "checkpoint", self.checkpoint.path
        if self.denoiser is not None:
            yield "denoiser", self.denoiser
        yield from deciding_files(self.pipeline.folder, self.elsewhere)


def find(model: str, options: LoadOptions = USUAL) -> Source:
    """Find a model and see that it is of a supported family and that all of it is there.

    Args:
        model: "embedded", a folder in diffusers layout, or a .safetensors file with a whole model
            in its original layout.
        options: where parts come from.

    Raises:
        ModelError: missing, incomplete, cut short, no base model, or of an unsupported family.
        MissingExtraError: its weights are stored in a way that needs a package that is not here.
    """
    path = Path(model)
    checkpoint = None
    if model != EMBEDDED and path.is_file():
        checkpoint = _checkpoint(path)
        pipeline = _settings_of(checkpoint, options.config)
    elif options.config is not None:
        raise ModelError(
            f"settings from {options.config} were given for {model}, which has its own; expected"
            " them for a checkpoint of one file only, so drop --model-config"
        )
    else:
        pipeline = model_pipeline(model)
        check_settings(pipeline)
    _check_listed(pipeline)
    denoiser = None if options.denoiser is None else _denoiser(Path(options.denoiser), pipeline)
    found = Source(pipeline, checkpoint, denoiser)
    if checkpoint is not None:
        _check_parts(checkpoint, pipeline, found.elsewhere)
    variant = check_weights(pipeline, found.elsewhere)
    for part, method in stored_quantized(pipeline).items():
        if method in EXTRAS and part not in found.elsewhere:
            need(method, f"{part} of {pipeline.folder}, which is stored quantised,")
    return replace(found, variant=variant)


def _check_listed(pipeline: Pipeline) -> None:
    """Refuse a pipeline whose index leaves a part out that every family works with."""
    family = family_named(pipeline.name, str(pipeline.folder))
    listed = {part.name for part in pipeline.parts}
    encoders = [name for name in family.text_names if name not in family.optional]
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in encoders]
    for name in (family.denoiser_name, "vae", "scheduler", *encoders, *tokenizers):
        if name not in listed:
            raise ModelError(
                f"{pipeline.folder / INDEX} lists no {name}; expected all parts of a"
                f" {pipeline.name}, so use another copy of the model"
            )


def packages(source: Source, options: LoadOptions) -> tuple[str, ...]:
    """Optional packages that compute with the model's weights or its attention; sorted."""
    stored = stored_quantized(source.pipeline)
    used = {method for part, method in stored.items() if part not in source.elsewhere}
    if source.denoiser is not None and source.denoiser.suffix == GGUF:
        used.add("gguf")
    if options.quantize != "none":
        used.add(PACKAGES[options.quantize])
    used &= set(EXTRAS)
    if options.attention_backend is not None and BACKENDS[options.attention_backend].package:
        used.add(BACKENDS[options.attention_backend].package)
    return tuple(sorted(used))


def _checkpoint(path: Path) -> Checkpoint:
    if path.suffix in _PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened; expected a .safetensors"
            " file: most models are published as one as well"
        )
    if path.suffix == GGUF:
        raise ModelError(
            f"{path} is a GGUF file, which holds a denoiser alone; expected a whole model: give one"
            " with --model and this file with --denoiser"
        )
    checkpoint = read_checkpoint(path)
    family_named(checkpoint.pipeline, f"{path} ({label(checkpoint.base)})")
    if not checkpoint.whole:
        raise ModelError(
            f"{path} holds the denoiser of {label(checkpoint.base)} alone; expected a whole model:"
            " give one with --model and this file with --denoiser"
        )
    return checkpoint


def _settings_of(checkpoint: Checkpoint, config: str | None) -> Pipeline:
    """The folder that says how a checkpoint of one file is built."""
    if config is not None:
        pipeline = model_pipeline(config)
    else:
        index = try_to_load_from_cache(checkpoint.settings, INDEX)
        if not isinstance(index, str):
            raise ModelError(
                f"{checkpoint.path} holds {label(checkpoint.base)} in one file, which lacks the"
                " settings of its parts and the words of its tokenizers; expected them in a"
                " diffusers folder of the same family: give one with --model-config (weights are"
                f" not needed in it), or --model-config {checkpoint.settings} to fetch a few MB"
                " from the hub"
            )
        pipeline = read_pipeline(Path(index).parent)
    if pipeline.name != checkpoint.pipeline:
        raise ModelError(
            f"{checkpoint.path} is a {checkpoint.pipeline} and the settings in {pipeline.folder}"
            f" are for a {pipeline.name}; expected both of one family"
        )
    check_settings(pipeline)
    return pipeline


def _check_parts(checkpoint: Checkpoint, pipeline: Pipeline, elsewhere: tuple[str, ...]) -> None:
    """Refuse a file that lacks parts which are not in the folder with its settings either."""
    lacking = [p.name for p in pipeline.networks(elsewhere) if not has_weights(pipeline, p)]
    if lacking:
        raise ModelError(
            f"{checkpoint.path} lacks {', '.join(lacking)}, and {pipeline.folder} has only its"
            " settings; expected the weights in one of them, so give a whole diffusers folder of"
            " the same family with --model-config"
        )


def _denoiser(path: Path, pipeline: Pipeline) -> Path:
    """Check a file with weights for the denoiser of a pipeline."""
    if not path.is_file():
        raise ModelError(
            f"no denoiser at {path}: expected a .safetensors or .gguf file; check the path"
        )
    if path.suffix == GGUF:
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ModelError(f"{path} is no GGUF file; expected one, download it again")
        need("gguf", f"{path}")
        return path
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} holds no denoiser: expected a .safetensors or .gguf file")
    checkpoint = read_checkpoint(path)
    if checkpoint.pipeline != pipeline.name:
        raise ModelError(
            f"{path} holds the denoiser of a {checkpoint.pipeline} and the model is a"
            f" {pipeline.name}; expected one that fits"
        )
    return path
