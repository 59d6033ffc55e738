from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulators.site import Site, running


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running() as site:
        yield site
