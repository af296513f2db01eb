"""What a model says about itself."""

from __future__ import annotations

import pytest

from compose.errors import ModelError
from compose.models.card import CARD, ModelCard, read_card
from compose.models.sd15 import StableDiffusion15
from tests.tiny import tiny_pipeline


def test_a_folder_without_a_card_gets_the_defaults(tmp_path) -> None:
    assert read_card(tmp_path) == ModelCard()


def test_a_card_decides_the_default_guidance(tmp_path) -> None:
    (tmp_path / CARD).write_text('{"guidance": 3.5, "words": ["cat"]}')
    card = read_card(tmp_path)
    assert card == ModelCard(3.5, ("cat",))
    assert StableDiffusion15(tiny_pipeline(), card).guidance == 3.5
    assert StableDiffusion15(tiny_pipeline()).guidance == 7.5


@pytest.mark.parametrize(
    "text", ["", "[]", "not json", '{"guidence": 4}', '{"guidance": -1}', '{"guidance": "high"}']
)
def test_a_card_that_makes_no_sense_is_refused(tmp_path, text) -> None:
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ModelError, match=CARD):
        read_card(tmp_path)
