"""What may follow a door's prefix in a path and go on to a provider: plain segments, nothing that another server could read otherwise."""

from __future__ import annotations

import re
from typing import Final

from sensorium.errors import BadRequest

LONGEST: Final = 200
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:@+-]+(?:/[A-Za-z0-9._:@+-]+)*")
_HIDDEN: Final = re.compile(rb"%(?:2e|2f|5c|25|00)", re.IGNORECASE)


def checked(path: str, raw: bytes) -> str:
    """The path below a door as it may go on; `raw` is the whole path as it was sent.

    Raises BadRequest with code invalid_path for dots that climb, empty segments, backslashes, control characters, encoded dots and
    slashes, and what is too long (hub contract B4.3).
    """
    climbs = any(segment.strip(".") == "" for segment in path.split("/"))
    if len(path) > LONGEST or climbs or ".." in path or not _PLAIN.fullmatch(path) or _HIDDEN.search(raw):
        shown = path[:60].encode("unicode_escape").decode()
        raise BadRequest(
            f"{shown!r} cannot end this path; it takes segments of letters, digits and . _ - : @ +, at most {LONGEST} characters",
            code="invalid_path",
        )
    return path
