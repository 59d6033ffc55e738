"""multipart/form-data (RFC 7578) between bytes and parts. Part headers are kept as they came; bodies are views, not copies."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sensorium.errors import BadRequest

MEDIA: Final = "multipart/form-data"
MAX_PARTS: Final = 100
MAX_HEADERS: Final = 4096  # bytes of one part's headers
_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^;\s"]{1,70}))', re.IGNORECASE)
_NAME: Final = re.compile(r';\s*name="((?:[^"\\]|\\.)*)"|;\s*name=([^;\s"]+)', re.IGNORECASE)
_FILE: Final = re.compile(r';\s*filename="((?:[^"\\]|\\.)*)"|;\s*filename=([^;\s"]+)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form: its name, its bytes, and for a file its name and media type."""

    name: str
    data: bytes | memoryview = dataclasses.field(repr=False)
    filename: str | None = None
    media: str | None = None

    def text(self) -> str:
        """The value of a plain field. Raises BadRequest when it is not UTF-8."""
        try:
            return bytes(self.data).decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"the form field {self.name} is not UTF-8 text", param=self.name) from None


def is_form(content_type: str) -> bool:
    """Whether a Content-Type announces a form."""
    return content_type.split(";")[0].strip().lower() == MEDIA


def parse(body: bytes, content_type: str) -> list[Part]:
    """The parts of a form in their order.

    Raises BadRequest, saying what is wrong, for a missing boundary, a missing end, a part without a name, too many parts.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadRequest("the form's Content-Type names no boundary; let your HTTP client write that header")
    mark = b"--" + (found[1] or found[2]).encode("latin-1")
    view, parts = memoryview(body), list[Part]()
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if at == 1:
        raise BadRequest("the form does not hold the boundary that its Content-Type names")
    while True:
        at += len(mark)
        if body[at : at + 2] == b"--":
            return parts
        head = body.find(b"\r\n\r\n", at, at + MAX_HEADERS + 4)
        end = body.find(b"\r\n" + mark, head + 2) if head >= 0 else -1
        if end < 0:
            raise BadRequest("the form ends in the middle of a part; was the upload cut off?")
        if len(parts) == MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts")
        parts.append(_part(body[at:head], view[head + 4 : end], len(parts)))
        at = end + 2


def build(parts: Iterable[Part], boundary: str | None = None) -> tuple[str, bytes]:
    """(Content-Type, body) of a form."""
    boundary = boundary or secrets.token_hex(16)
    pieces: list[bytes | memoryview] = []
    for part in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(part.name)}"'
        head += "" if part.filename is None else f'; filename="{_quoted(part.filename)}"'
        head += "" if part.media is None else f"\r\nContent-Type: {part.media}"
        pieces += [head.encode(), b"\r\n\r\n", part.data, b"\r\n"]
    return f"{MEDIA}; boundary={boundary}", b"".join([*pieces, f"--{boundary}--\r\n".encode()])


def field(parts: Sequence[Part], name: str) -> str | None:
    """The text of the first plain field of that name. Raises BadRequest when it is not UTF-8."""
    return next((part.text() for part in parts if part.name == name and part.filename is None), None)


def without(parts: Iterable[Part], *names: str) -> list[Part]:
    """All parts but those of these names."""
    return [part for part in parts if part.name not in names]


def _part(head: bytes, data: memoryview, number: int) -> Part:
    headers = dict(_header(line) for line in head.decode("utf-8", "replace").split("\r\n") if ":" in line)
    disposition = headers.get("content-disposition", "")
    name = _value(_NAME, disposition)
    if name is None:
        raise BadRequest(f"part {number + 1} of the form has no name")
    return Part(name, data, _value(_FILE, disposition), headers.get("content-type"))


def _header(line: str) -> tuple[str, str]:
    name, _, text = line.partition(":")
    return name.strip().lower(), text.strip()


def _value(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    if found is None:
        return None
    return found[2] if found[1] is None else re.sub(r"\\(.)|%22", lambda escaped: escaped[1] or '"', found[1])


def _quoted(text: str) -> str:
    """As browsers write names: WHATWG HTML, "multipart/form-data encoding algorithm"."""
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
