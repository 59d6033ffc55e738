"""multipart/form-data (RFC 7578, RFC 2046), read strictly: what a real server would stumble over is told, not repaired.

Apart from `wire.multipart` on purpose: it judges the forms that the hub writes, and must not share a mistake with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

CRLF = b"\r\n"


class BadForm(Exception):
    """The body is no form; the message says where it goes wrong."""


@dataclass(frozen=True, slots=True)
class Field:
    """One part of a form. `filename` is None for a plain value."""

    name: str
    data: bytes
    filename: str | None = None
    content_type: str = "text/plain"

    @property
    def text(self) -> str:
        """The value as text."""
        return self.data.decode("utf-8", "replace")


def parse(content_type: str, body: bytes) -> list[Field]:
    """The fields in their order. Raises BadForm."""
    boundary = _boundary(content_type)
    opening = b"--" + boundary
    if not body.startswith(opening):  # a preamble is allowed, but must end in a line break
        at = body.find(CRLF + opening)
        if at < 0:
            raise BadForm("the boundary of the Content-Type header does not occur in the body")
        body = body[at + 2 :]
    pieces = (CRLF + body).split(CRLF + opening)[1:]
    for place, piece in enumerate(pieces):
        if piece.startswith(b"--"):
            return [_field(piece) for piece in pieces[:place]]
    raise BadForm("the closing boundary is missing")


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise BadForm("the Content-Type is not multipart/form-data with a boundary")
    return boundary.encode("latin-1", "replace")


def _field(piece: bytes) -> Field:
    start, separator, data = piece.partition(CRLF + CRLF)
    if not separator or start[:2] not in (b"", CRLF):
        raise BadForm("a part without headers")
    headers = BytesHeaderParser().parsebytes(start[2:] + CRLF)
    name = headers.get_param("name", header="content-disposition")
    if headers.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise BadForm("a part without Content-Disposition: form-data and a name")
    return Field(name, data, headers.get_filename(), headers.get_content_type())
