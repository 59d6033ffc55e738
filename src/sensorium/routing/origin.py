"""Where calls come from: one caller's request, whom it is for, and the records of the calls that it became.

A door may dispatch several calls for one request (a picture each, one provider after the other); a request leaves one record all the
same. So it is held beside the calls, in the context in which they run. What the caller says about itself is believed, not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from sensorium.errors import BadRequest
from sensorium.routing.call import Call, Record
from sensorium.wire import jsonbody
from sensorium.wire.jsonbody import Members

CONTEXT = "_mac_context"
HEADERS = {
    "agent": "x-mac-agent-id",
    "task": "x-mac-task-id",
    "lease": "x-mac-lease-id",
    "command": "x-mac-command-id",
    "request": "x-mac-request-id",
    "fleet": "x-mac-fleet",
}
LONGEST = 256  # characters of a name
# A name is printable ASCII without blanks: so a prompt is none, nor is a key.
_NAME = re.compile(r"(?!nvapi-|sk-)[!-~]+")


@dataclass(slots=True)
class Origin:
    """A request: its id, the door's path, the caller's name, and `attribution`, names of what it is for, by the keys of HEADERS.

    `ended` is told once when the request is over and has made calls, with its status (0: the caller left before an answer began) and the
    bytes that came and went.
    """

    id: str
    attribution: dict[str, str] = field(default_factory=dict)
    door: str = ""
    caller: str = ""
    records: list[tuple[Record, float]] = field(default_factory=list)
    ended: Callable[[Origin, int, int, int], None] | None = None
    over: bool = False

    def end(self, status: int, received: int, sent: int) -> None:
        """The request is over."""
        self.over = True
        if self.records and self.ended is not None:
            self.ended(self, status, received, sent)
        self.records.clear()  # what runs on in this context must not keep their bodies


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)


def from_headers(header: Callable[[str], str]) -> dict[str, str]:
    """The attribution that a request's headers tell; `header` gives one by its lower-case name, "" when missing."""
    return _named({name: header(called) for name, called in HEADERS.items()})


def attributed(call: Call) -> Call:
    """The call without `_mac_context`, which never goes upstream and fills in what the headers of its request left open."""
    if CONTEXT in call.members:
        call = replace(call, members=without_context(call.members))
    if call.form is not None and any(part.name == CONTEXT for part in call.form):
        call = replace(call, form=tuple(part for part in call.form if part.name != CONTEXT))
    return call


def without_context(found: Members) -> Members:
    """A body's members without `_mac_context`, which is noted. Its keys are those of HEADERS, alone or with `_id`: a guess."""
    if CONTEXT not in found:
        return found
    origin, given = ORIGIN.get(), _decoded(found)
    if origin is not None and isinstance(given, dict):
        origin.attribution = _named({name: given.get(f"{name}_id", given.get(name)) for name in HEADERS}) | origin.attribution
    return {name: raw for name, raw in found.items() if name != CONTEXT}


def _decoded(found: Members) -> Any:
    try:
        return jsonbody.value(found, CONTEXT)
    except BadRequest:
        return None


def _named(given: Mapping[str, Any]) -> dict[str, str]:
    return {name: text[:LONGEST] for name, text in given.items() if isinstance(text, str) and _NAME.fullmatch(text)}
