"""Whole numbers that callers write in queries and forms. Pure."""

from __future__ import annotations


def whole(text: str, least: int, most: int) -> int | None:
    """The number that ASCII digits write, from `least` to `most`; None for any other text.

    The length is looked at first: Python raises ValueError for a text of thousands of digits.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    found = int(text)
    return found if least <= found <= most else None
