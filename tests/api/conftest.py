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
def at(provider: Provider) -> Iterator[str]:
    with serving(provider) as base:
        yield base


@pytest.fixture
def hub(at: str) -> Iterator[Hub]:
    """A hub of its own for each test: what it learns of its providers stays with it."""
    with running(at, max_body_bytes=4096) as hub:
        yield hub


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, Hub]]:
    """A provider whose answer each test writes, and the hub in front of it."""
    program = Scripted()
    with serving(program) as base, running(base, full=True) as hub:
        yield program, hub
