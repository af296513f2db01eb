"""Models by hub id. Only files that cannot run code are fetched, and only when a user asks."""

from __future__ import annotations

import re
from pathlib import Path

from compose.errors import ModelError

EMBEDDED = "embedded"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer*/*",
    "text_encoder*/config.json",
    "text_encoder*/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def local_model(name: str, *, offline: bool) -> str:
    """Where a model lies on this machine; fetched from the hub first if that is what it takes.

    Args:
        name: "embedded", a folder in diffusers layout, or a hub id such as "owner/model".
        offline: take hub models from the cache only.

    Returns:
        "embedded" or a folder.

    Raises:
        ModelError: a hub model that is not in the cache and cannot or must not be fetched.
    """
    if name == EMBEDDED or Path(name).exists() or not _HUB_ID.fullmatch(name):
        return name
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, allow_patterns=list(_WANTED), local_files_only=offline)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        todo = "fetch it once without --offline" if offline else "check the name and the connection"
        raise ModelError(
            f"model {name} is no folder here and could not be had from the hub ({first}); expected"
            f" {EMBEDDED}, a folder in diffusers layout, or the id of a public model, so {todo}"
        ) from None


def cached_models() -> dict[str, Path]:
    """Diffusers pipelines in the hub's cache, by id."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = {}
    for index in sorted(Path(HF_HUB_CACHE).glob("models--*--*/snapshots/*/model_index.json")):
        owner, _, model = index.parts[-4].removeprefix("models--").partition("--")
        found[f"{owner}/{model}"] = index.parent
    return found
