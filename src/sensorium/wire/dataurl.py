"""`data:` URLs (RFC 2397): a small file written into a URL, as callers send pictures. Pure; it does not look into the bytes."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from sensorium.errors import BadRequest

SCHEME = "data:"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")
_SPACE = re.compile(rb"[ \t\r\n\f]+")


@dataclass(frozen=True, slots=True)
class DataURL:
    """The declared media type in lower case ("" when none was declared) and the decoded bytes."""

    media_type: str
    data: bytes


def is_data_url(url: str) -> bool:
    """Whether `url` has the `data:` scheme, in any case."""
    return url[: len(SCHEME)].lower() == SCHEME


def parse(url: str) -> DataURL:
    """Split and decode a data: URL, base64 or percent-encoded.

    White space inside base64, a missing padding and the URL-safe alphabet are accepted. Raises BadRequest that says what is wrong.
    """
    if not is_data_url(url):
        raise BadRequest("not a data: URL")
    head, comma, body = url[len(SCHEME) :].partition(",")
    if not comma:
        raise BadRequest("a data: URL without a comma; write data:image/png;base64,...")
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    if media_type and not _MEDIA_TYPE.fullmatch(media_type):
        raise BadRequest(f"a data: URL with the media type {media_type[:60]!r}; write data:image/png;base64,...")
    raw = unquote_to_bytes(body) if "%" in body else body.encode("utf-8", "surrogatepass")
    return DataURL(media_type, _base64(raw) if parameters and parameters[-1] == "base64" else raw)


def build(media_type: str, data: bytes) -> str:
    """The base64 data: URL of `data`."""
    return f"{SCHEME}{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _base64(raw: bytes) -> bytes:
    compact = _SPACE.sub(b"", raw).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("a data: URL whose base64 is damaged") from None
