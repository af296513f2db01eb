"""Families that LoRA-Composer serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.fusion.lora_composer.made import SERVED, Made, made


@pytest.fixture(scope="module", params=SERVED)
def shared(request: Any, tmp_path_factory: Any) -> Made:
    return made(request.param, tmp_path_factory.mktemp(request.param), torch.float64)


@pytest.fixture
def here(shared: Made) -> Iterator[Made]:
    yield shared
    shared.composer.close()
