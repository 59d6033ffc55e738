"""What a simulated service answers, as values: a status, headers and a body or frames; and how it says no."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. With `frames` it is a stream of them and `body` is unused. `files` lie beside the body in a large result of NVIDIA's."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    frames: tuple[bytes, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


class Refused(Exception):
    """The service says no; `reply` is how."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def json_reply(value: Any, status: int = 200, media: str = JSON) -> Reply:
    """`value` as compact JSON."""
    return Reply(status, compact(value), {"content-type": media})


def compact(value: Any) -> bytes:
    """JSON without blanks. Numbers of any length and half characters, which callers may have sent, come out again."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
