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
        words: the only words that its text encoder was trained on; empty for any text.
    """

    guidance: float | None = None
    words: tuple[str, ...] = ()


def read_card(folder: Path) -> ModelCard:
    """Read a model's card; a folder without one gets the defaults.

    Raises:
        ModelError: the file is there and makes no sense.
    """
    path = folder / CARD
    if not path.is_file():
        return ModelCard()
    try:
        said = json.loads(path.read_text())
        card = ModelCard(**{**said, "words": tuple(said.get("words", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no model card: expected guidance, words ({error})") from None
    good = card.guidance is None or (isinstance(card.guidance, int | float) and card.guidance >= 0)
    if not good or (card.guidance is not None and not math.isfinite(card.guidance)):
        raise ModelError(f"{path} has guidance {card.guidance!r}; expected a number of at least 0")
    return card
