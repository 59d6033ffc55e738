"""A large result as NVIDIA stores it: a zip with `<request id>.response`, the body, and further files (NVIDIA page, section 6.4).

Nothing is written to a disk. Members whose path leads out of their folder are left alone.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Final

from sensorium.errors import UpstreamFailed

MOST_MEMBERS: Final = 1000
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
RESPONSE, FILM = ".response", ".mp4"


@dataclass(frozen=True, slots=True)
class Result:
    """The body, and the first film beside it."""

    response: bytes | None
    film: bytes | None


def result(data: bytes, provider: str, cap: int) -> Result:
    """The result by `provider`. `cap` are the bytes that may be unpacked.

    Raises UpstreamFailed for what is no zip, is damaged, holds nothing of use, or is larger or has more members than is borne.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [one for one in archive.infolist() if _plain(one.filename) and one.compress_type in METHODS]
            chosen = [next((m for m in members if m.filename.lower().endswith(end)), None) for end in (RESPONSE, FILM)]
            if len(archive.infolist()) > MOST_MEMBERS or sum(member.file_size for member in chosen if member) > cap:
                raise UpstreamFailed(f"{provider} answered with a zip of more than {cap} bytes or {MOST_MEMBERS} members")
            response, film = (archive.read(member) if member else None for member in chosen)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError) as error:
        raise UpstreamFailed(f"{provider} answered with a zip that cannot be read: {type(error).__name__}") from None
    if response is None and film is None:
        raise UpstreamFailed(f"{provider} answered with a zip that holds no result")
    return Result(response, film)


def _plain(path: str) -> bool:
    """Whether a member's path stays inside its folder, on every system."""
    return not (path.startswith("/") or "\\" in path or ":" in path or "\0" in path or ".." in path.split("/"))
