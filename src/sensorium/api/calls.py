"""The door to the records of finished calls: all for administrators, its own for any other caller. No record holds what was said."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from sensorium.api.auth import ADMINISTRATORS
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest, Forbidden, NotFound
from sensorium.routing.health import REACTION
from sensorium.store.calls import Calls
from sensorium.store.database import StoreUnavailable
from sensorium.wire.whole import whole

FILTERS = ("limit", "before", "caller", "outcome")
OUTCOMES = ("answered", "refused", "failed", "client_closed")
USUAL, MOST = 50, 1000
LAST = 2**63 - 1


class CallsDoor:
    """Handlers of /v1/calls."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def latest(self, visit: Visit) -> None:
        """GET /v1/calls: the last calls, newest first. Raises BadRequest for a filter that is none, Forbidden for another's calls."""
        limit, before, caller, outcome = _filters(visit.query)
        own = _own(visit)
        if own is not None and caller not in (None, own):
            raise Forbidden("this token may not read the records of other callers: it lacks the scope admin", code="missing_scope")

        def read() -> dict[str, Any]:
            self._write_the_waiting()
            found = self._calls.latest(limit + 1, before, caller=own or caller, outcome=outcome)
            data = [_reacted(call) for call in found[:limit]]
            return {"object": "list", "data": data, "has_more": len(found) > limit, "lost": self._calls.lost()}

        await _answer(visit, await asyncio.to_thread(read))

    async def call(self, visit: Visit) -> None:
        """GET /v1/calls/ID: the newest call of this id, and how many there are in `count`. Raises NotFound."""
        id = visit.params[0]

        def read() -> tuple[dict[str, Any] | None, int]:
            self._write_the_waiting()
            return self._calls.named(id, caller=_own(visit))

        found, count = await asyncio.to_thread(read)
        if found is None:
            raise NotFound(
                f"there is no record of a call {id[:128]}",
                code="unknown_call",
                hint="a call that was refused before it reached a provider leaves none, and old ones are forgotten",
            )
        await _answer(visit, {**_reacted(found), "count": count})

    def _write_the_waiting(self) -> None:
        with suppress(StoreUnavailable):  # then what is written is told
            self._calls.flush()


def _filters(query: bytes) -> tuple[int, int | None, str | None, str | None]:
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    for name in given:
        if name not in FILTERS:
            raise BadRequest(f"{name[:80]!r} is no filter of calls; there are {', '.join(FILTERS)}", param=name[:80])
    outcome = given.get("outcome") or None
    if outcome is not None and outcome not in OUTCOMES:
        raise BadRequest(f"outcome is {outcome[:80]!r}; it is one of {', '.join(OUTCOMES)}", param="outcome")
    limit = _number(given, "limit", MOST)
    return limit or USUAL, _number(given, "before", LAST), given.get("caller") or None, outcome


def _number(given: dict[str, str], name: str, most: int) -> int | None:
    text = given.get(name, "")
    if not text:
        return None
    found = whole(text, 1, most)
    if found is None:
        raise BadRequest(f"{name} is {text[:80]!r}; it is a whole number from 1 to {most}", param=name)
    return found


def _reacted(call: dict[str, Any]) -> dict[str, Any]:
    """The call with what each failed attempt changes for those that follow."""
    attempts = [{**attempt, "reaction": REACTION.get(attempt["class"]) if attempt["asked"] else None} for attempt in call["attempts"]]
    return {**call, "attempts": attempts}


def _own(visit: Visit) -> str | None:
    """The only caller whose records may be read; None when all may."""
    return None if visit.caller in ADMINISTRATORS else visit.caller


async def _answer(visit: Visit, told: dict[str, Any]) -> None:
    await visit.answer(msgspec.json.encode(told), {"cache-control": "no-store"})
