"""Server-sent events, as far as the OpenAI dialect uses them: `data: <json>` frames and the closing `[DONE]`."""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """One frame. `data` must hold no line break, which compact JSON never does."""
    return b"data: " + data + b"\n\n"


def data(line: str) -> str | None:
    """The payload of one received line, or None for comments, blank lines and other fields."""
    return line[5:].strip() if line.startswith("data:") else None
