"""What a reply says it used, read while it passes: token counts, pictures, seconds of sound. Nothing is decoded but the counts.

A reading gets every chunk and gives back what goes on: the same bytes, but for the frame of token counts that only the hub asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

TAIL: Final = 64 * 1024  # bytes of a whole reply in which its counts are looked for, from the end
FRAME: Final = 256 * 1024  # bytes of a stream's frame; a longer one goes on unread
MOST: Final = 2**53  # a count beyond it is none
WAV_HEADER: Final = 512
_COUNTS: Final = re.compile(rb'"usage"\s*:\s*\{')
_FRAME_END: Final = re.compile(rb"\r?\n\r?\n")
_PICTURE: Final = re.compile(rb'"(?:b64_json|base64|image|url)"\s*:\s*"')
_PICTURE_KEY: Final = 24  # bytes that such a key may need, to be found across two chunks


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of one call; None is unknown, never 0. `seconds` are of sound or film, `characters` of text to be spoken."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    images: int | None = None
    seconds: float | None = None
    characters: int | None = None

    def __add__(self, other: Usage) -> Usage:
        """Both together; what is known of one only counts as it is."""
        return Usage(*map(_sum, self.counts(), other.counts()))

    def updated(self, later: Usage) -> Usage:
        """What a later report says, and where it says nothing what an earlier one said."""
        return Usage(*(mine if theirs is None else theirs for mine, theirs in zip(self.counts(), later.counts(), strict=True)))

    def counts(self) -> tuple[Any, ...]:
        """All of them, in their order."""
        return self.tokens_in, self.tokens_out, self.images, self.seconds, self.characters


UNKNOWN: Final = Usage()


class Reading(Protocol):
    """Reads one reply as it passes."""

    @property
    def usage(self) -> Usage:
        """What is known so far."""
        ...

    def passed(self, chunk: bytes) -> bytes:
        """What of this chunk, and of what was held back before it, goes on now."""
        ...

    def rest(self) -> bytes:
        """What was held back, at the end of the reply."""
        ...


class Watched:
    """A reading that lets everything through at once; what was seen is looked at when somebody asks."""

    def passed(self, chunk: bytes) -> bytes:
        self.see(chunk)
        return chunk

    def rest(self) -> bytes:
        return b""

    def see(self, chunk: bytes) -> None:
        """Take note of a chunk."""


class WholeReply(Watched):
    """A JSON reply of any size whose `usage` is at its top level; in one longer than 64 KiB it must stand near the end, as it does."""

    def __init__(self) -> None:
        self._tail, self._size = b"", 0

    @property
    def usage(self) -> Usage:
        if self._size == len(self._tail):
            return told(self._tail)
        # What follows a member at the top level closes the object and nothing else; a text inside would have its quotes escaped.
        place = self._tail.rfind(b'"usage"')
        return UNKNOWN if place < 0 else told(b"{" + self._tail[place:])

    def see(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._tail = chunk[-TAIL:] if len(chunk) >= TAIL else (self._tail + chunk)[-TAIL:]


class EventStream:
    """Server-sent events of OpenAI's, Anthropic's or the Responses protocol. With `hide` the frame that holds nothing but counts stays
    behind, and frames go on whole."""

    def __init__(self, hide: bool = False) -> None:
        self.usage = UNKNOWN
        self._hide, self._held = hide, b""

    def passed(self, chunk: bytes) -> bytes:
        whole, start, kept = self._held + chunk, 0, []
        for end in _FRAME_END.finditer(whole):
            frame = whole[start : end.end()]
            kept += [] if _COUNTS.search(frame) and self._read(frame) else [frame]
            start = end.end()
        self._held = whole[start:]
        if len(self._held) > FRAME:
            kept, self._held = [*kept, self._held], b""
        return b"".join(kept) if self._hide else chunk

    def rest(self) -> bytes:
        return self._held if self._hide else b""

    def _read(self, frame: bytes) -> bool:
        """Take the counts of a frame; whether it is the one that stays behind."""
        data = b"\n".join(line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:"))
        found = told(data)
        self.usage = self.usage.updated(found)
        return self._hide and found != UNKNOWN and _choices(data) == []


class Pictures(Watched):
    """A JSON reply with pictures, of whatever size: they are counted by the members that hold them."""

    def __init__(self) -> None:
        self._count, self._end = 0, b""

    @property
    def usage(self) -> Usage:
        return Usage(images=self._count or None)

    def see(self, chunk: bytes) -> None:
        seen = self._end + chunk
        last = 0
        for found in _PICTURE.finditer(seen):
            self._count, last = self._count + 1, found.end()
        self._end = seen[max(last, len(seen) - _PICTURE_KEY) :]


class Wave(Watched):
    """A WAV file: its length is that of its bytes, whatever its header claims."""

    def __init__(self) -> None:
        self._head, self._size = b"", 0

    @property
    def usage(self) -> Usage:
        return Usage(seconds=wave_seconds(self._head, self._size))

    def see(self, chunk: bytes) -> None:
        self._head += chunk[: WAV_HEADER - len(self._head)]
        self._size += len(chunk)


class _Reply(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    response: msgspec.Raw = msgspec.Raw(b"null")
    message: msgspec.Raw = msgspec.Raw(b"null")


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None


_reply, _chunk = msgspec.json.Decoder(_Reply), msgspec.json.Decoder(_Chunk)


def told(document: bytes) -> Usage:
    """The counts in a JSON object: in its `usage`, or in that of its `response` or `message`, as some events have it."""
    found = _decoded(_reply.decode, document)
    if not isinstance(found, _Reply):
        return UNKNOWN
    inner = next((raw for raw in (found.response, found.message) if bytes(raw)[:1] == b"{"), None)
    if bytes(found.usage) == b"null" and inner is not None:
        found = _decoded(_reply.decode, inner)
    return _counts(_decoded(msgspec.json.decode, found.usage))


def wave_seconds(head: bytes, size: int) -> float | None:
    """How long a WAV file of `size` bytes lasts; None when its beginning is no WAV header."""
    data, form = head.find(b"data"), head.find(b"fmt ")
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or form < 0 or data < 0 or len(head) < form + 20:
        return None
    per_second = int.from_bytes(head[form + 16 : form + 20], "little")
    return max(0, size - data - 8) / per_second if per_second else None


def _counts(told: Any) -> Usage:
    if not isinstance(told, dict):
        return UNKNOWN
    tokens_in = told.get("prompt_tokens", told.get("input_tokens"))
    tokens_out = told.get("completion_tokens", told.get("output_tokens"))
    return Usage(_count(tokens_in), _count(tokens_out), seconds=_amount(told.get("seconds")))


def _count(given: Any) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < MOST else None


def _amount(given: Any) -> float | None:
    plain = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if plain and 0 <= given < MOST else None


def _choices(data: bytes) -> list[msgspec.Raw] | None:
    found = _decoded(_chunk.decode, data)
    return found.choices if isinstance(found, _Chunk) else None


def _decoded(decode: Callable[[Any], Any], document: bytes | msgspec.Raw) -> Any:
    try:
        return decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _sum(mine: Any, theirs: Any) -> Any:
    return mine if theirs is None else theirs if mine is None else mine + theirs
