"""Models by hub id. Only files that cannot run code are fetched, and only when a user asks."""

from __future__ import annotations

import re
from pathlib import Path

from compose.errors import ModelError
from compose.models.folder import check_settings, check_weights, has_weights, read_pipeline

EMBEDDED = "embedded"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".safetensors", ".gguf", ".ckpt", ".bin", ".pt", ".pth", ".json")
_NETWORKS = (*(f"text_encoder{n}" for n in ("", "_2", "_3")), "unet", "transformer", "vae")
_OTHERS = ("scheduler", *(f"tokenizer{n}" for n in ("", "_2", "_3")))
_SETTINGS = (
    *("model_index.json", "lora_compose.json"),
    *(f"{part}/*.{kind}" for part in (*_NETWORKS, *_OTHERS) for kind in ("json", "txt", "model")),
)
_VARIANTS = ("", ".fp16", ".bf16")  # tried in this order
_STEMS = ("model", "diffusion_pytorch_model")


def local_model(name: str, *, offline: bool) -> str:
    """Where a model lies on this machine; fetched from the hub first if that is what it takes.

    A model that lies whole in the hub's cache is taken from there and the hub is not asked. Of the
    weights on the hub the plain ones are fetched, fp16 or bf16 ones where a part has no others.

    Args:
        name: "embedded", a folder in diffusers layout, a file, or a hub id such as "owner/model".
        offline: take hub models from the cache only.

    Returns:
        "embedded", a folder or a file.

    Raises:
        ModelError: a hub model that is not in the cache and cannot or must not be fetched.
    """
    return _local(name, offline, weights=True)


def local_settings(name: str, *, offline: bool) -> str:
    """The same for the settings of a model and the words of its tokenizers, without weights."""
    return _local(name, offline, weights=False)


def _local(name: str, offline: bool, *, weights: bool) -> str:
    if name == EMBEDDED or Path(name).exists() or not _HUB_ID.fullmatch(name):
        return name
    if name.endswith(_FILES):  # a file that is not there, not a model
        return name
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        folder = _snapshot(name, _SETTINGS, offline=True)
        if _whole(folder, weights):
            return folder
    except (OSError, ValueError):
        pass  # not in the cache
    try:
        return _fetched(name, offline, weights)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        todo = (
            "fetch it once without --offline and HF_HUB_OFFLINE"
            if offline or HF_HUB_OFFLINE
            else "check the name and the connection"
        )
        raise ModelError(
            f"model {name} is no folder or file here and could not be had from the hub ({first});"
            f" expected {EMBEDDED}, a folder in diffusers layout, a .safetensors checkpoint, or the"
            f" id of a public model, so {todo}"
        ) from None


def _fetched(name: str, offline: bool, weights: bool) -> str:
    """Fetch settings, see that the model is supported, then fetch what weights it lacks."""
    from compose.models.detect import model_pipeline

    folder = _snapshot(name, _SETTINGS, offline=offline)
    pipeline = model_pipeline(folder)
    if not weights or offline:
        return folder
    for variant in _VARIANTS:
        lacking = [p.name for p in pipeline.networks() if not has_weights(pipeline, p)]
        if not lacking:
            break
        wanted = tuple(
            f"{part}/{stem}{variant}{ending}"
            for part in lacking
            for stem in _STEMS
            for ending in (".safetensors", "-*-of-*.safetensors")
        )
        _snapshot(name, wanted, offline=False, revision=Path(folder).name)
    return folder


def _snapshot(
    name: str, patterns: tuple[str, ...], *, offline: bool, revision: str | None = None
) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        name, revision=revision, allow_patterns=list(patterns), local_files_only=offline
    )


def _whole(folder: str, weights: bool) -> bool:
    """Whether nothing is missing from a snapshot."""
    try:
        pipeline = read_pipeline(Path(folder))
        check_settings(pipeline)
        if weights:
            check_weights(pipeline)
    except ModelError:
        return False
    return True


def cached_models() -> dict[str, Path]:
    """Diffusers pipelines in the hub's cache, by id."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = {}
    for index in sorted(Path(HF_HUB_CACHE).glob("models--*--*/snapshots/*/model_index.json")):
        owner, _, model = index.parts[-4].removeprefix("models--").partition("--")
        found[f"{owner}/{model}"] = index.parent
    return found
