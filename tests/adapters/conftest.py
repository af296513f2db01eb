from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import nn

from tests.adapters.layouts import Truth, random_truth
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def components() -> Mapping[str, nn.Module]:
    pipe = tiny_pipeline()
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


@pytest.fixture(scope="session")
def truth(components: Mapping[str, nn.Module]) -> Truth:
    return random_truth(components)
