"""Large pictures do not multiply in the hub's memory (bench/memory.py measures the same at leisure)."""

from __future__ import annotations

import sys

import pytest

from bench import memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_large_picture_takes_at_most_three_times_its_size() -> None:
    found = memory.measured(calls=8, size=5_000_000)
    assert found["chat_times"] <= 3.0, found
    assert found["image_times"] <= 3.0, found
