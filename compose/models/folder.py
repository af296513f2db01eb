"""Folders in diffusers layout: what belongs to them, and whether all of it is there.

Nothing is loaded here. Of weight files the header alone is read, which shows a download that broke
off.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose.errors import ModelError
from compose.models.checkpoint import read_model_header

INDEX = "model_index.json"
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that nothing here uses. They need not be there and are not loaded."""

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
_SETTINGS = (".json", ".txt", ".model")
_DECIDING = (*_SETTINGS, ".safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Part:
    """A component of a pipeline, as its index names it.

    Attributes:
        name: such as "unet" or "tokenizer_2"; the name of its folder.
        library: "diffusers" or "transformers".
        kind: class name.
    """

    name: str
    library: str
    kind: str

    @property
    def has_weights(self) -> bool:
        """Whether it is a network: neither a scheduler nor a tokenizer."""
        return not self.name.endswith("scheduler") and not self.name.startswith("tokenizer")


@dataclass(frozen=True)
class Pipeline:
    """A diffusers folder, known by its index.

    Attributes:
        folder: where it lies.
        name: class name of the pipeline.
        parts: the components that are used, in the order of the index.
        absent: names of components that the model does without.
    """

    folder: Path
    name: str
    parts: tuple[Part, ...]
    absent: tuple[str, ...] = ()

    def networks(self, without: Collection[str] = ()) -> Iterator[Part]:
        """Parts that have weights, save some."""
        return (part for part in self.parts if part.has_weights and part.name not in without)


def read_pipeline(folder: Path) -> Pipeline:
    """Read the index of a folder.

    Raises:
        ModelError: there is none, or it makes no sense.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ModelError(f"no model at {folder}: {_instead(folder)}")
    index = _table(path, "a pipeline description with _class_name")
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise ModelError(
            f"{path} is not a pipeline description: expected JSON with _class_name, the name of a"
            " pipeline of diffusers (custom pipelines are code of their own and are not run)"
        )
    absent = tuple(part for part, value in index.items() if value == [None, None])
    return Pipeline(folder, name, tuple(_parts(path, index)), absent)


def _parts(path: Path, index: Mapping[str, Any]) -> Iterator[Part]:
    for name, value in index.items():
        if name in UNUSED or not isinstance(value, list) or len(value) != 2 or None in value:
            continue
        library, kind = value
        if library not in _STEMS or not isinstance(kind, str) or not name.isidentifier():
            raise ModelError(
                f"{path} has the part {name} from {library}; expected diffusers or transformers"
                " (custom pipelines are code of their own and are not run)"
            )
        yield Part(name, library, kind)


def _instead(folder: Path) -> str:
    """What a folder without an index seems to be."""
    if folder.is_file():
        return "it is a file; expected a folder in diffusers layout here"
    if (folder / "adapter_config.json").is_file():
        return "the folder holds a LoRA that PEFT saved; expected a base model, use --lora for it"
    if (folder / "config.json").is_file():
        kind = _table(folder / "config.json", "settings").get("_class_name", "part of a model")
        return f"the folder holds a {kind} alone; expected a whole pipeline, with a {INDEX}"
    if loose := sorted(folder.glob("*.safetensors")):
        return f"the folder has no {INDEX}; to use the checkpoint in it, give the file {loose[0]}"
    return f"expected a folder with a {INDEX} or a .safetensors checkpoint; check the path"


def check_settings(pipeline: Pipeline) -> None:
    """Check that the settings of every part are there, and the words of its tokenizers.

    Raises:
        ModelError: a file is missing; its name is told.
    """
    for part in pipeline.parts:
        place = pipeline.folder / part.name
        if not place.is_dir():
            raise _missing(pipeline.folder, f"the folder {part.name}")
        if part.name.startswith("tokenizer"):
            _need(pipeline.folder, place / "tokenizer_config.json")
            if not any(all((place / n).is_file() for n in names) for names in _TOKENIZERS):
                raise _missing(pipeline.folder, f"{part.name}/tokenizer.json")
        else:
            settings = "config.json" if part.has_weights else "scheduler_config.json"
            _need(pipeline.folder, place / settings)


def check_weights(pipeline: Pipeline, without: Collection[str] = ()) -> str | None:
    """Check that the weights are there and not cut short.

    Args:
        pipeline: whose settings are there.
        without: parts whose weights come from elsewhere.

    Returns:
        The variant to load, such as "fp16"; None for the plain files, which count first.

    Raises:
        ModelError: a part has no weights, only pickles, or not all of them.
    """
    found = {part.name: _complete(pipeline, part) for part in pipeline.networks(without)}
    known = sorted({"", *(variant for sets in found.values() for variant in sets)})
    for variant in known:
        if all(variant in sets or "" in sets for sets in found.values()):
            chosen = variant
            break
    else:
        every = "; ".join(f"{name}: {', '.join(sets)}" for name, sets in found.items())
        raise ModelError(
            f"{pipeline.folder} has no variant that is there for all of its parts ({every});"
            " expected one, download the folder again"
        )
    for sets in found.values():
        for path in sets.get(chosen, sets.get("", ())):
            read_model_header(path)
    return chosen or None


def has_weights(pipeline: Pipeline, part: Part) -> bool:
    """Whether the weights of a part are there."""
    sets = _sets(pipeline.folder / part.name, part)
    return any(all(p.is_file() for p in paths) for paths in sets.values())


def _complete(pipeline: Pipeline, part: Part) -> dict[str, tuple[Path, ...]]:
    """Variant ("" for none) to the files of a part, for the variants that are there as a whole."""
    place = pipeline.folder / part.name
    sets = _sets(place, part)
    whole = {v: paths for v, paths in sets.items() if all(p.is_file() for p in paths)}
    if whole:
        return whole
    for paths in sets.values():
        gone = next(p for p in paths if not p.is_file())
        raise _missing(pipeline.folder, f"{part.name}/{gone.name}")
    stem = _STEMS[part.library]
    if any(place.glob(f"{stem}*-of-*.safetensors")):
        raise _missing(pipeline.folder, f"{part.name}/{stem}.safetensors.index.json")
    pickles = sorted(p.name for p in place.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise ModelError(
            f"{place} holds its weights as a pickle only ({pickles[0]}); expected .safetensors:"
            " pickles can run code when opened, so use another copy of the model"
        )
    raise _missing(pipeline.folder, f"{part.name}/{stem}.safetensors")


def _sets(place: Path, part: Part) -> dict[str, tuple[Path, ...]]:
    """Variant to the files that it should have: one, or the shards that its index lists."""
    stem = f"{_STEMS[part.library]}."
    sets: dict[str, tuple[Path, ...]] = {}
    for path in sorted(place.glob(f"{stem}*")):
        middle = path.name.removeprefix(stem)
        if middle.startswith("safetensors.index.") and middle.endswith("json"):
            variant = middle.removeprefix("safetensors.index.").removesuffix("json").rstrip(".")
            shards = _table(path, "a list of shards with weight_map").get("weight_map")
            if not isinstance(shards, dict) or not all(_plain(s) for s in shards.values()):
                raise ModelError(f"{path} makes no sense: expected weight_map, tensors to shards")
            sets[variant] = tuple(place / name for name in sorted(set(shards.values())))
        elif middle.endswith("safetensors") and middle.count(".") <= 1 and "-of-" not in middle:
            sets[middle.removesuffix("safetensors").rstrip(".")] = (path,)
    return sets


def _plain(name: object) -> bool:
    """Whether a name is one of a file in the same folder."""
    return isinstance(name, str) and Path(name).name == name


def deciding_files(folder: Path, without: Collection[str] = ()) -> Iterator[tuple[str, Path]]:
    """Files that decide what a model draws: settings, words and weights of its parts.

    Args:
        folder: in diffusers layout.
        without: parts whose weights come from elsewhere.

    Yields:
        Path inside the folder, and the file, in an order that does not depend on the machine.
    """
    index = _table(folder / INDEX, "a pipeline description")
    parts = sorted(name for name in index if (folder / name).is_dir())
    for place in (folder, *(folder / name for name in parts)):
        kept = _DECIDING if place.name not in without else _SETTINGS
        for path in sorted(place.iterdir()):
            if path.suffix in kept and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def stored_quantized(pipeline: Pipeline) -> dict[str, str]:
    """Parts whose weights are stored quantised, with the method's name."""
    found = {}
    for part in pipeline.networks():
        settings = _table(pipeline.folder / part.name / "config.json", "settings")
        stored = settings.get("quantization_config")
        if isinstance(stored, dict):
            found[part.name] = str(stored.get("quant_method", "an unknown method"))
    return found


def _table(path: Path, what: str) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: expected {what} ({error})") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path} is no table: expected {what}")
    return table


def _need(folder: Path, path: Path) -> None:
    if not path.is_file():
        raise _missing(folder, path.relative_to(folder).as_posix())


def _missing(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"{folder} is not complete: {what} is missing; expected a whole folder in diffusers layout,"
        " so finish the download or copy it again"
    )
