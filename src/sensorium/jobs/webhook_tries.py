"""When a notification is sent again: ten times within two hours, then four times within two days. Pure."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

DELAYS_S: Final = (
    5.0,
    15.0,
    45.0,
    *(60.0 * minutes for minutes in (2, 5, 10, 15, 20, 30, 35)),
    *(3600.0 * hours for hours in (4, 8, 14, 24)),
)
JITTER: Final = 0.1
LONGEST_S: Final = 3 * 24 * 3600.0  # all tries take 52 hours; a hub that was off, or an endpoint that is held back, may be late
LONGEST_RETRY_AFTER_S: Final = 3600.0
GONE: Final = 410
_SAYS_WHEN: Final = (429, 503)


def taken(status: int | None) -> bool:
    """Whether a receiver acknowledged it."""
    return status is not None and 200 <= status < 300


def delay_s(tries: int, status: int | None, retry_after_s: float | None, random: float) -> float | None:
    """Seconds until it is sent again after `tries` tries, of which the last was answered `status`; None: that was the last.

    `random` is evenly between 0 and 1. A receiver that says when is not called earlier, but is not waited for longer than an hour.
    """
    if tries > len(DELAYS_S) or status == GONE or (status is not None and 300 <= status < 400):
        return None
    usual = DELAYS_S[tries - 1] * (1 + JITTER * (2 * random - 1))
    if status in _SAYS_WHEN and retry_after_s is not None:
        return max(usual, min(retry_after_s, LONGEST_RETRY_AFTER_S))
    return usual


def retry_after_s(header: str | None, now: float) -> float | None:
    """The header's seconds from now on, given as a number or as a date (RFC 9110, 10.2.3); None when it cannot be read."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
