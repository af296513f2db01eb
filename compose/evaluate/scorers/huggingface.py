"""CLIP, DINO and DINOv2 through transformers, from a folder in its layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from compose.errors import ModelError, RequestError
from compose.evaluate.scorers.extra import needs


@dataclass(frozen=True)
class HuggingFaceClip:
    """A `CLIPModel`.

    Attributes:
        model, tokenizer, processor: as transformers loads them.
    """

    model: Any
    tokenizer: Any
    processor: Any

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """As of `ImageEncoder`."""
        pixels = _pixels(self.processor, images, self.model.device)
        features: Tensor = self.model.get_image_features(pixels).pooler_output
        return features

    def texts(self, texts: Sequence[str]) -> Tensor:
        """As of `ClipEncoder`.

        Raises:
            RequestError: a text is longer than the encoder reads.
        """
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        most = self.model.config.text_config.max_position_embeddings
        if tokens.input_ids.shape[1] > most:
            raise RequestError(
                f"a text of {tokens.input_ids.shape[1]} tokens is to be scored, CLIP reads {most};"
                " give the words of one concept"
            )
        features: Tensor = self.model.get_text_features(
            **tokens.to(self.model.device)
        ).pooler_output
        return features


@dataclass(frozen=True)
class HuggingFaceDino:
    """A vision transformer with a class token: `ViTModel` for DINO, `Dinov2Model`.

    Attributes:
        model, processor: as transformers loads them.
    """

    model: Any
    processor: Any

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """As of `ImageEncoder`: the class token after the last layer."""
        pixels = _pixels(self.processor, images, self.model.device)
        features: Tensor = self.model(pixels).last_hidden_state[:, 0]
        return features


def clip_encoder(folder: Path, device: torch.device) -> HuggingFaceClip:
    """Load a `CLIPModel` with its tokenizer and image processor.

    Raises:
        ModelError: the folder holds none, or weights are missing in it.
        MissingExtraError: transformers cannot be imported.
    """
    with needs("transformers", "metrics"):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
    model = _load(CLIPModel, folder)
    tokenizer = _read(AutoTokenizer, folder)
    processor = _read(AutoImageProcessor, folder, backend="pil")
    return HuggingFaceClip(model.to(device).eval(), tokenizer, processor)


def dino_encoder(folder: Path, device: torch.device) -> HuggingFaceDino:
    """Load a vision transformer with its image processor.

    Raises:
        ModelError: the folder holds none, or weights are missing in it.
        MissingExtraError: transformers cannot be imported.
    """
    with needs("transformers", "metrics"):
        from transformers import AutoImageProcessor, AutoModel
    model = _load(AutoModel, folder, unused=("pooler.",))
    processor = _read(AutoImageProcessor, folder, backend="pil")
    return HuggingFaceDino(model.to(device).eval(), processor)


def _load(kind: Any, folder: Path, unused: tuple[str, ...] = ()) -> Any:
    """A model all of whose weights stand in the folder, but for those that are not used."""
    try:
        model, found = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_model(folder, error) from error
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(unused or "\n"))
    if missing or found["mismatched_keys"]:
        names = ", ".join([*missing, *(key for key, *_ in found["mismatched_keys"])][:3])
        raise ModelError(
            f"{folder} lacks weights of a {type(model).__name__} ({names} ...); they would be"
            " random, so there is no score: give the folder of the whole model"
        )
    return model


def _read(kind: Any, folder: Path, **options: Any) -> Any:
    """A tokenizer or image processor."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise _no_model(folder, error) from error


def _no_model(folder: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(
        f"{folder} cannot be loaded ({reason}); expected a folder that save_pretrained wrote:"
        " config.json, model.safetensors, preprocessor_config.json and for texts a tokenizer"
    )


def _pixels(processor: Any, images: Sequence[Image.Image], device: torch.device) -> Tensor:
    """[n, 3, H, W] as the model wants them."""
    rgb = [image.convert("RGB") for image in images]
    pixels: Tensor = processor(images=rgb, return_tensors="pt").pixel_values
    return pixels.to(device)
