"""Parts of a file: the Range and If-None-Match headers (RFC 9110, sections 13 and 14). Pure."""

from __future__ import annotations

import re
from typing import Final

from sensorium.errors import SensoriumError

_SINGLE: Final = re.compile(r"bytes\s*=\s*(?:([0-9]{1,18})\s*-\s*([0-9]{1,18})?|-\s*([0-9]{1,18}))\s*", re.IGNORECASE)


class RangeNotSatisfiable(SensoriumError):
    """A range that begins behind the end of the file."""

    code, status, kind = "range_not_satisfiable", 416, "invalid_request_error"


def single(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last of the range asked for, of a file of `size` bytes.

    None means the whole file: no range, another unit, several ranges or what cannot be read, all of which may be left unheard.
    Raises RangeNotSatisfiable.
    """
    read = _SINGLE.fullmatch(header)
    if read is None:
        return None
    first, last, suffix = read.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), size if last is None else min(size, int(last) + 1)
        if last is not None and int(last) < start:
            return None
    if start >= size or start >= end:
        raise RangeNotSatisfiable(f"the file has {size} bytes; there is nothing at {header[:60]!r}")
    return start, end


def matches(header: str, etag: str) -> bool:
    """Whether an If-None-Match lists this entity tag (quoted), weak or strong."""
    return header.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in header.split(","))
