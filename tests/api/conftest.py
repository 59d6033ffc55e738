from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.hubs import Hub, Scripted, running
from tests.serving import serving
from tests.upstream_program import Provider


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


@pytest.fixture(scope="module")
def hub(provider: Provider) -> Iterator[Hub]:
    with serving(provider) as base, running(base, max_body_bytes=4096) as hub:
        yield hub


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, Hub]]:
    """A provider whose answer each test writes, and the hub in front of it."""
    program = Scripted()
    with serving(program) as base, running(base, full=True) as hub:
        yield program, hub
