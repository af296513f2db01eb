"""What several files of these tests stand on."""

from __future__ import annotations

import pytest

from tests.families import FAMILIES


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, list]:
    """Three adapters of ranks 2, 5 and 3 for every family."""
    return {n: f.files(tmp_path_factory.mktemp(n)) for n, f in FAMILIES.items()}
