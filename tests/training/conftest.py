"""Training rounds tiny numbers to zero, which the processor then does for everything that follows in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def tiny_numbers() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)
