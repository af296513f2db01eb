"""Which tokens of a caption are the trigger's, and which the class word's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compose.errors import ConceptError
from compose.text.positions import spans
from compose.train.lora_config import LoraConfig

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Words:
    """Where the words of a concept stand in some texts.

    Attributes:
        trigger, class_word: [M, T] bool, true on every token of every occurrence; of the class word
            only those right behind the trigger count where there are such.
    """

    trigger: Tensor
    class_word: Tensor

    @property
    def both(self) -> Tensor:
        """[M] texts in which there is one as well as the other."""
        return self.trigger.any(dim=1) & self.class_word.any(dim=1)

    def rows(self, which: Tensor) -> Words:
        """Those of some texts, [m] long."""
        return Words(self.trigger[which], self.class_word[which])


def find_words(
    captions: Sequence[str], trigger: str, class_word: str, tokenizer: Any, device: torch.device
) -> Words:
    """Look the words up in captions.

    Captions are plain text to the text encoder: brackets in them are no weights.

    Args:
        captions: M texts, as the pipeline encodes them: in one window, cut behind its end.
        trigger, class_word: phrases; an empty one stands nowhere.
        tokenizer: of transformers, with offsets.
        device: of the result.
    """
    read = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_offsets_mapping=True,
    )
    rows = [
        (
            _marked(caption, offsets, spans(caption, trigger)),
            _marked(caption, offsets, _kinds(caption, trigger, class_word)),
        )
        for caption, offsets in zip(captions, read["offset_mapping"], strict=True)
    ]
    own, kind = (torch.tensor(masks, device=device) for masks in zip(*rows, strict=True))
    return Words(own, kind)


def _kinds(caption: str, trigger: str, class_word: str) -> tuple[range, ...]:
    """Where the class word stands right behind the trigger; without such a place, wherever it
    stands. A "red cat" beside a "mochi cat" is another.
    """
    ends = {place.stop for place in spans(caption, f"{trigger} {class_word}")}
    places = spans(caption, class_word)
    return tuple(place for place in places if place.stop in ends) or places


def _marked(
    caption: str, offsets: Sequence[tuple[int, int]], places: Sequence[range]
) -> list[bool]:
    """Of every token, whether it stands for a letter of the places; start, end and padding stand
    for none.
    """
    letters = {i for place in places for i in place if not caption[i].isspace()}
    return [not letters.isdisjoint(range(start, end)) for start, end in offsets]


def check_words(config: LoraConfig, words: Words) -> None:
    """See whether TARA has words to work on in the captions of a concept.

    Args:
        config: of the training.
        words: of its captions, the empty one not among them.

    Raises:
        ConceptError: no caption has the trigger; or none has the class word beside it, and they
            are to be aligned.
    """
    concept, settings, count = config.concept, config.settings, len(words.trigger)
    called = int(words.trigger.any(dim=1).sum())
    both = int(words.both.sum())
    if not called:
        raise ConceptError(
            f"train.tara is true, but none of the {count} captions has the trigger "
            f"{concept.trigger!r} where the text encoder sees it; expected some that do, so write "
            "it into them"
        )
    if called < count:
        _LOG.warning(
            "%d of %d captions lack the trigger %s: there a TARA adapter leaves the text alone",
            *(count - called, count, concept.trigger),
        )
    if settings.align and not both:
        raise ConceptError(
            f"train.align is {settings.align:g}, but none of the {count} captions has the class "
            f"word {concept.class_word!r} beside the trigger {concept.trigger!r}; expected some "
            "that do, so write it into them or set train.align: 0"
        )
    if settings.align and both < called:
        _LOG.warning(
            "%d of %d captions lack the class word %s: the alignment loss leaves them out",
            *(called - both, count, concept.class_word),
        )
