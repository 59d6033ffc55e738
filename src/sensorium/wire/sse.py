"""Server-sent events, as far as the dialects use them: `data: <json>` frames, some with a name, and OpenAI's closing `[DONE]`."""

from __future__ import annotations

import re
from typing import Final

from sensorium.errors import UpstreamFailed

DONE = b"data: [DONE]\n\n"
LONGEST: Final = 64 * 1024 * 1024  # bytes of one frame
_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE: Final = re.compile(rb"\r\n|\n|\r")


def event(data: bytes, name: str = "") -> bytes:
    """One frame. `data` must hold no line break, which compact JSON never does."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def data(line: str) -> str | None:
    """The payload of one received line, or None for comments, blank lines and other fields."""
    return line[5:].strip() if line.startswith("data:") else None


def whole(held: bytes) -> int:
    """How many bytes of what has arrived are whole frames; 0 when there is none yet."""
    return max((place + len(end) for end in (b"\n\n", b"\r\n\r\n") if (place := held.rfind(end)) >= 0), default=0)


def ended(piece: bytes) -> bool:
    """Whether a stream has said all that it had to say with this piece, in OpenAI's way or in Anthropic's."""
    return piece.endswith(DONE) or b"event: message_stop\n" in piece[-128:]


class Frames:
    """The payloads of a stream that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._seen = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads of the frames that `piece` completes; frames without data are left out.

        Raises UpstreamFailed when a frame has no end.
        """
        self._held += piece
        found, begin = [], 0
        for end in _END.finditer(self._held, max(0, self._seen - 3)):
            found.append(_payload(bytes(self._held[begin : end.start()])))
            begin = end.end()
        del self._held[:begin]
        self._seen = len(self._held)
        if self._seen > LONGEST:
            raise UpstreamFailed("an event of the stream has no end")
        return [payload for payload in found if payload]


def _payload(frame: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(frame) if line.startswith(b"data:")]
    return b"\n".join(lines)
