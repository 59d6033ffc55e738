from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulators.fal.site import FalSite, running


@pytest.fixture
def fal() -> Iterator[FalSite]:
    with running() as site:
        yield site
