"""What a model says about itself beside its weights: an optional ``lora_compose.json`` in its
folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from compose.errors import ModelError

CARD = "lora_compose.json"


@dataclass(frozen=True)
class ModelCard:
    """Facts that the weights themselves do not tell.

    Attributes:
        guidance: guidance scale that suits the model; None for the usual one of its family.
        world_words: whether its text encoder knows the words of the embedded world and no others.
    """

    guidance: float | None = None
    world_words: bool = False


def read_card(folder: Path) -> ModelCard:
    """Read a model's card; a folder without one gets the defaults.

    Raises:
        ModelError: the file is there and makes no sense.
    """
    path = folder / CARD
    if not path.is_file():
        return ModelCard()
    try:
        card = ModelCard(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is no model card: expected guidance, world_words ({error})"
        ) from None
    good = card.guidance is None or (isinstance(card.guidance, int | float) and card.guidance >= 0)
    if not good or (card.guidance is not None and not math.isfinite(card.guidance)):
        raise ModelError(f"{path} has guidance {card.guidance!r}; expected a number of at least 0")
    return card
