"""CLIP through open_clip, from a folder in the layout of its models on the hub.

open_clip needs torchvision, which in a wrong build breaks transformers and diffusers as well; so it
is an extra, and imported only when asked for (docs/evaluate.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from compose.errors import ModelError, RequestError
from compose.evaluate.scorers.extra import needs

CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class OpenClip:
    """A model of open_clip.

    Attributes:
        model, tokenizer, transform: as open_clip loads them.
        device: of the model.
    """

    model: Any
    tokenizer: Any
    transform: Any
    device: torch.device

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """As of `ImageEncoder`."""
        pixels = torch.stack([self.transform(image.convert("RGB")) for image in images])
        features: Tensor = self.model.encode_image(pixels.to(self.device))
        return features

    def texts(self, texts: Sequence[str]) -> Tensor:
        """As of `ClipEncoder`.

        Raises:
            RequestError: a text is longer than the encoder reads.
        """
        most = self.tokenizer.context_length
        tokens: Tensor = self.tokenizer(list(texts), context_length=4 * most)
        beyond = tokens[:, most:]  # padding, unless a text goes on here
        if bool((beyond != beyond[:, -1:]).any()):
            raise RequestError(
                f"a text of more than {most} tokens is to be scored, which is all that CLIP reads;"
                " give the words of one concept"
            )
        features: Tensor = self.model.encode_text(tokens[:, :most].to(self.device))
        return features


def open_clip_encoder(folder: Path, device: torch.device) -> OpenClip:
    """Load a model of open_clip.

    Args:
        folder: holds ``open_clip_config.json`` and weights as safetensors.
        device: where to compute.

    Raises:
        ModelError: the folder holds no such model.
        MissingExtraError: the extra ``metrics`` is missing or broken.
    """
    _check(folder)
    with needs("open-clip-torch", "metrics"):
        import open_clip
    name = f"local-dir:{folder}"
    try:
        model, transform = open_clip.create_model_from_pretrained(name, device=device)
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder} cannot be loaded by open_clip ({reason}); expected {CONFIG} and the weights"
            " that belong to it"
        ) from error
    return OpenClip(model.eval(), tokenizer, transform, device)


def _check(folder: Path) -> None:
    """Refuse what would be scored by random weights, unpickled or fetched."""
    try:
        text = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} holds no {CONFIG} with a model_cfg ({type(error).__name__}: {error}); give"
            " the folder of a model of open_clip"
        ) from None
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds no weights as safetensors; without them the score would be that of"
            " random weights, and pickled ones are not read: convert them to safetensors"
        )
    if text.get("hf_model_name"):
        raise ModelError(
            f"the text encoder of {folder} ({text['hf_model_name']}) would be fetched from the hub;"
            " give a model of open_clip that is whole in its folder"
        )
