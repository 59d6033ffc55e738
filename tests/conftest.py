"""What several tests share: a real hub, and the plain statement of what was not run and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.hub_process import running_hub

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("untimed")

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_FAL_CLIENT = importlib.util.find_spec("fal_client") is not None
collect_ignore = ([] if HAS_TORCH else ["oracles", "training"]) + ([] if HAS_FAL_CLIENT else ["clients"])


def pytest_report_header() -> list[str]:
    """Said at the top of every run that leaves tests out because what they need is missing."""
    said = [] if HAS_TORCH else ["not run: tests/oracles and tests/training, they need torch, which `make oracles` installs"]
    return said + ([] if HAS_FAL_CLIENT else ["not run: tests/clients, they need fal's clients, which `make clients` installs"])


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a hub that serves the shipped models, without a token and without a settings file."""
    with running_hub(tmp_path_factory.mktemp("hub")) as url:
        yield url
