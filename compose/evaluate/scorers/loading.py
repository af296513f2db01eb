"""From a line of text to a scorer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from compose.device import pick_device
from compose.errors import ModelError, RequestError, nearest
from compose.evaluate.scorers.huggingface import clip_encoder, dino_encoder
from compose.evaluate.scorers.openclip import open_clip_encoder
from compose.evaluate.scorers.scorer import ClipScorer, ImageScorer, PluginScorer, Scorer


def _open_clip(folder: Path, device: torch.device) -> ClipScorer:
    return ClipScorer(f"open-clip {folder.name}", open_clip_encoder(folder, device))


def _clip(folder: Path, device: torch.device) -> ClipScorer:
    return ClipScorer(f"clip {folder.name}", clip_encoder(folder, device))


def _clip_images(folder: Path, device: torch.device) -> ImageScorer:
    return ImageScorer(f"clip-images {folder.name}", clip_encoder(folder, device))


def _dino(folder: Path, device: torch.device) -> ImageScorer:
    return ImageScorer(f"dino {folder.name}", dino_encoder(folder, device))


KINDS: Mapping[str, Callable[[Path, torch.device], Scorer[Any]]] = MappingProxyType(
    {"open-clip": _open_clip, "clip": _clip, "clip-images": _clip_images, "dino": _dino}
)
"""Kinds of scorers with weights: CLIPScore through open_clip and through transformers, similarity
of pictures by CLIP and by DINO or DINOv2 through transformers."""


def load_scorer(spec: str, *, device: str = "auto") -> Scorer[Any]:
    """A scorer from ``KIND=FOLDER``, or the user's own from ``MODULE:FUNCTION``.

    Args:
        spec: a kind of `KINDS` and the folder of its weights, or a function that takes pictures and
            references and gives a number for each.
        device: "auto", "cpu" or "cuda".

    Raises:
        RequestError: an unknown kind, or no such function.
        ModelError: the folder is missing, or holds no weights that fit.
        MissingExtraError: the package behind it is missing or broken.
    """
    kind, equals, folder = spec.partition("=")
    if not equals and ":" in spec:
        return _plugin(spec)
    if kind not in KINDS:
        raise RequestError(
            f"scorer {spec!r} is not known; expected KIND=FOLDER or MODULE:FUNCTION,"
            f" {nearest(kind, KINDS)}"
        )
    path = Path(folder)
    if not folder or not path.is_dir():
        raise ModelError(
            f"scorer {spec!r}: {folder!r} is no folder; expected one with the model's weights. The"
            " name of an architecture alone would score with random weights"
        )
    return KINDS[kind](path, pick_device(device))


def _plugin(spec: str) -> PluginScorer:
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RequestError(
            f"scorer {spec!r} cannot be imported ({error}); expected MODULE:FUNCTION, with the"
            " module on the path of Python"
        ) from error
    if not callable(function):
        raise RequestError(f"scorer {spec!r} is {type(function).__name__}; expected a function")
    return PluginScorer(spec, function)
