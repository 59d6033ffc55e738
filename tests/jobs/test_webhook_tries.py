"""When a notification is sent again, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.jobs.webhook_tries import DELAYS_S, delay_s, retry_after_s, taken

NOW = 1767225600.0  # 2026-01-01 00:00:00 UTC


def test_the_published_times() -> None:
    assert [delay_s(tries, 500, None, 0.5) for tries in range(1, 16)] == [
        *(5, 15, 45, 120, 300, 600, 900, 1200, 1800, 2100),
        *(4 * 3600, 8 * 3600, 14 * 3600, 24 * 3600),
        None,
    ]
    assert 110 * 60 < sum(DELAYS_S[:10]) <= 120 * 60


@given(st.integers(1, 14), st.floats(0, 1))
def test_ten_percent_more_or_less(tries: int, chance: float) -> None:
    delay = delay_s(tries, None, None, chance)
    assert delay is not None
    assert 0.9 * DELAYS_S[tries - 1] <= delay * 1.000001
    assert delay <= 1.1 * DELAYS_S[tries - 1] * 1.000001


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 399, 410])
def test_what_ends_it_at_once(status: int) -> None:
    assert delay_s(1, status, 60.0, 0.5) is None


@pytest.mark.parametrize("status", [None, 100, 400, 401, 404, 409, 429, 500, 502, 503, 504, 600])
def test_what_is_tried_again(status: int | None) -> None:
    assert delay_s(1, status, None, 0.5) == 5


@pytest.mark.parametrize(("status", "expected"), [(None, False), (199, False), (200, True), (204, True), (299, True), (300, False)])
def test_what_counts_as_taken(status: int | None, expected: bool) -> None:
    assert taken(status) is expected


@pytest.mark.parametrize(
    ("tries", "status", "said", "expected"),
    [(1, 429, 60.0, 60), (1, 503, 9999.0, 3600), (10, 429, 60.0, 2100), (1, 500, 60.0, 5), (15, 429, 60.0, None)],
)
def test_a_receiver_says_when(tries: int, status: int, said: float, expected: float | None) -> None:
    assert delay_s(tries, status, said, 0.5) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90),
        ("Thu, 01 Jan 2026 01:00:00 +0100", 0),
        ("Thu, 01 Jan 2026 00:00:30", 30),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("9" * 400, None),
        ("²", None),
        ("Thu, 01 Jan 99999999999999 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999999", None),
        ("Thu, 99 Jan 2026 00:00:00 GMT", None),
    ],
)
def test_the_header_in_both_forms(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header, NOW) == expected


@given(st.text())
def test_no_header_breaks_it(header: str) -> None:
    found = retry_after_s(header, NOW)
    assert found is None or found >= 0
