"""Pictures that share denoiser calls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compose.composer import Composer
from compose.errors import RequestError
from compose.fusion import method
from compose.request import AdapterUse, Request


@pytest.fixture
def composer(model, library, monkeypatch):
    monkeypatch.setenv("LORA_COMPOSE_ADAPTERS", str(library))
    with Composer.load(str(model), device="cpu") as found:
        yield found


USES = (AdapterUse("tiny_one"), AdapterUse("tiny_two", 0.7))
ONE = Request("mochi cat", adapters=USES, method=method("switch")(every=1), steps=2, seeds=(3,))
TWO = replace(ONE, prompt="a blue mochi dog", negative="red", seeds=(8,))


def pixels(made) -> np.ndarray:
    return np.asarray(made.image).astype(int)


def test_one_alone_is_what_it_always_was(composer: Composer) -> None:
    (alone,) = composer.images(composer.prepare(ONE))
    (together,) = composer.together([composer.prepare(ONE)])
    assert (pixels(alone) == pixels(together)).all()


def test_rows_of_a_call_are_those_of_each_alone_up_to_rounding(composer: Composer) -> None:
    prepared = [composer.prepare(one) for one in (ONE, TWO)]
    made = composer.together(prepared)
    assert [one.request for one in made] == [p.request for p in prepared]
    assert [one.seed for one in made] == [3, 8]
    assert made[0].calls.forwards == 2 and made[0].calls.rows == 2 * 2 * 2
    for one, asked in zip(made, (ONE, TWO), strict=True):
        (alone,) = composer.images(composer.prepare(asked))
        assert np.abs(pixels(one) - pixels(alone)).max() <= 1
    assert np.abs(pixels(made[0]) - pixels(made[1])).max() > 8
    again = composer.together([composer.prepare(one) for one in (ONE, TWO)])
    assert all((pixels(a) == pixels(b)).all() for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance": 1.5}, {"adapters": USES[:1]}])
def test_what_cannot_share_a_call_is_refused(composer: Composer, change) -> None:
    with pytest.raises(RequestError, match="share a denoiser call"):
        composer.together([composer.prepare(ONE), composer.prepare(replace(TWO, **change))])


def test_adapters_stay_installed_from_one_request_to_the_next(composer: Composer) -> None:
    def layers() -> list[torch.nn.Module]:
        return [m for m in composer.family.denoiser.modules() if "Gated" in type(m).__name__]

    composer.generate(ONE)
    before = layers()
    composer.generate(TWO)
    assert before and all(a is b for a, b in zip(before, layers(), strict=True))
    composer.generate(replace(ONE, adapters=USES[:1], method=method("merge")()))
    assert not {*map(id, before)} & {*map(id, layers())}
