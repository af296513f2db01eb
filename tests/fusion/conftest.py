"""Families with adapters in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.families import FAMILIES
from tests.fusion.ready import Ready


@pytest.fixture(scope="module", params=FAMILIES)
def ready(request, tmp_path_factory) -> Ready:
    return Ready(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory) -> Ready:
    return Ready(FAMILIES["sd15"], tmp_path_factory.mktemp("sd15"))


@pytest.fixture(autouse=True)
def ejected(request) -> Iterator[None]:
    yield
    for name in ("ready", "sd15"):
        if name in request.fixturenames:
            request.getfixturevalue(name).composer.close()
