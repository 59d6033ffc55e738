from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.hubs import Hub, running
from tests.serving import serving
from tests.upstream_program import Provider


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


@pytest.fixture(scope="module")
def hub(provider: Provider) -> Iterator[Hub]:
    with serving(provider) as base, running(base, max_body_bytes=4096) as hub:
        yield hub
