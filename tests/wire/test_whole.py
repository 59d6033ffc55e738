"""Whole numbers in queries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.wire.whole import whole


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", " 1", "1.0", "1_0", "²", "٣", "0", "101", "9" * 19, "9" * 20, "9" * 5000])
def test_what_is_no_number_within_the_bounds_is_none(text: str) -> None:
    assert whole(text, 1, 100) is None


@given(st.integers(0, 10**18))
def test_a_number_within_the_bounds_is_read(number: int) -> None:
    assert whole(str(number), 0, 10**18) == number


@given(st.text(max_size=30))
def test_no_text_raises(text: str) -> None:
    found = whole(text, 0, 10**18)
    assert found is None or found == int(text)
