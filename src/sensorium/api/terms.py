"""What a caller may say about any call by headers, at every door: where it goes, how long it may take, what the provider is told."""

from __future__ import annotations

import math
from typing import Final, get_args

from sensorium.api.auth import Principal
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest
from sensorium.routing.call import Where
from sensorium.routing.terms import Terms

WHERE, DEADLINE = "x-sensorium-where", "x-sensorium-deadline-s"
LONGEST_S: Final = 86_400.0
# of the caller's headers, those that go on to the provider; never a credential, never one that concerns a single connection
FORWARDED: Final = ("accept-language", "openai-beta", "traceparent", "tracestate")
_PLACES: Final[dict[str, Where]] = {place: place for place in get_args(Where)}


def terms(visit: Visit, principal: Principal) -> Terms:
    """The terms of a request. Raises BadRequest naming a header that cannot be read, its value and what it may be."""
    wanted = visit.header(WHERE).strip().lower()
    if wanted and wanted not in _PLACES:
        raise _refused(WHERE, wanted, f"one of {', '.join(_PLACES)}")
    sent = {name: text for name in FORWARDED if (text := visit.header(name))}
    return Terms((principal.where, _PLACES.get(wanted)), _seconds(visit.header(DEADLINE).strip()), sent)


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise _refused(DEADLINE, text, f"seconds, a number above 0 and up to {LONGEST_S:.0f}")
    return seconds


def _refused(header: str, value: str, allowed: str) -> BadRequest:
    shown = "".join(letter if letter.isprintable() else "?" for letter in value[:40])
    return BadRequest(f"the header {header} is {shown!r}; it takes {allowed}", param=header)
