"""The shipped recognizer agrees with labels that a person made of 200 generated pictures."""

from __future__ import annotations

import pytest

from benchmarks import calibration


def test_the_recognizer_sees_what_a_person_sees() -> None:
    share = {figure.name: figure.share for figure in calibration.score()}
    assert share["number of things"] >= 0.98
    assert share["species"] >= 0.98
    assert share["colour"] >= 0.93  # what the headline of an evaluation rests on
    assert share["pattern"] >= 0.85
    assert share["second"] >= 0.8


@pytest.mark.parametrize("text", ["teal", "teal split cat", "a very long label indeed cat"])
def test_a_label_of_another_form_is_refused(text) -> None:
    with pytest.raises(SystemExit, match="expected COLOUR SPECIES"):
        calibration.Label.of(text)
