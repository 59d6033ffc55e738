"""What callers say about a file: its name and content type, made fit for a row and a header; which types a browser may show. Pure."""

from __future__ import annotations

import mimetypes
import re
from typing import Final
from urllib.parse import quote

from sensorium.errors import BadRequest

OCTETS: Final = "application/octet-stream"
LONGEST_NAME, LONGEST_TYPE = 200, 200  # characters
_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(?:\s*;[ -~]*)?")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}")
_SHOWN: Final = re.compile(r"(?:image|audio|video|font|model)/(?!svg)[^;+]*|text/plain|application/(?:json|pdf|octet-stream)")


def content_type(given: str) -> str:
    """A media type as it came, `application/octet-stream` for none. Raises BadRequest for what cannot be one."""
    media = given.strip()
    if not media:
        return OCTETS
    if len(media) > LONGEST_TYPE or not _TYPE.fullmatch(media):
        raise BadRequest(f"{media[:60]!r} is no content type; send one like image/png", param="content_type")
    return media


def cleaned(name: str, media: str) -> str:
    """A name without folders and control characters, made up from the type when nothing is left."""
    last = re.split(r"[/\\]", name)[-1]
    plain = "".join(letter for letter in last if letter.isprintable()).strip()[:LONGEST_NAME]
    return plain if plain.strip(".") else f"file.{extension('', media)}"


def from_header(value: str) -> str:
    """A name as clients put it into a header: UTF-8, of which ASGI makes Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def extension(name: str, media: str) -> str:
    """What stands behind the dot in the file's URL: that of its name, else of its type, else `bin`."""
    named = name.rpartition(".")[2].lower() if "." in name else ""
    if _EXTENSION.fullmatch(named):
        return named
    guessed = (mimetypes.guess_extension(media.partition(";")[0].strip()) or ".bin")[1:]
    return guessed if _EXTENSION.fullmatch(guessed) else "bin"


def disposition(name: str, media: str) -> str:
    """The Content-Disposition: a browser shows media, plain text, JSON and PDF; it saves all else, html, svg, xml and scripts among it."""
    shown = _SHOWN.fullmatch(media.partition(";")[0].strip().lower())
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\%' else "_" for letter in name)
    return f"{'inline' if shown else 'attachment'}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
