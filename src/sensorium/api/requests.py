"""The door to the queue's requests, whatever protocol they came by: look, cancel, run again, forget.

Each caller has its own, administrators have all.
"""

from __future__ import annotations

from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import msgspec

from sensorium.api.auth import ADMINISTRATORS
from sensorium.api.router import Entry
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest, Forbidden, NotFound
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.logs import Line
from sensorium.jobs.request import LOW, Request, State
from sensorium.wire import openai
from sensorium.wire.whole import whole

PATH: Final = "/v1/requests"
FILTERS = ("limit", "after", "state", "status", "app", "caller")
USUAL, MOST = 50, 1000
STATES: Final = {state.name.lower(): state for state in State}
STATUSES: Final = {
    "IN_QUEUE": (State.QUEUED, State.DELAYED),
    "IN_PROGRESS": (State.RUNNING,),
    "COMPLETED": (State.SUCCEEDED, State.FAILED, State.CANCELLED),
}  # fal's words for the same


class AlreadyOver(BadRequest):
    """A request that has ended cannot be cancelled."""

    code, status = "already_over", 409


class Webhooks(Protocol):
    """What tells of the notifications of a request, and sends one again. Each answers the visit."""

    async def deliveries(self, visit: Visit, id: str) -> None:
        """Every try so far."""

    async def redeliver(self, visit: Visit, id: str) -> None:
        """One more try, now."""


class RequestsDoor:
    """Handlers of /v1/requests. Everywhere another's request is UnknownRequest."""

    def __init__(self, jobs: Jobs, webhooks: Webhooks) -> None:
        self._jobs, self._webhooks = jobs, webhooks

    async def entries(self, visit: Visit) -> None:
        """GET /v1/requests: the newest first. Raises BadRequest for a filter that is none, Forbidden for another's requests."""
        given = _filters(visit.query)
        limit = _limit(given.get("limit") or str(USUAL))
        caller, asked = _scope(visit), given.get("caller") or None
        if caller is not None and asked not in (None, caller):
            raise Forbidden("this token may not read the requests of other callers: it lacks the scope admin", code="missing_scope")
        after, app = given.get("after") or None, given.get("app") or None
        found = await self._jobs.listed(caller or asked, limit + 1, after, app=app, states=_states(given))
        page = [await self._shown(request) for request in found[:limit]]
        await _answer(visit, {"object": "list", "data": page, "has_more": len(found) > limit})

    async def look(self, visit: Visit) -> None:
        """GET /v1/requests/ID, with its runs that ended and what it logged, and GET /v1/requests/ID/deliveries."""
        request, action = await self._asked(visit)
        if action == "deliveries":
            await self._webhooks.deliveries(visit, request.id)
        elif not action:
            lines = await self._jobs.lines(request)
            runs = await self._jobs.attempts(request)
            told = await self._shown(request)
            await _answer(visit, {**told, "attempts": [_run(*run) for run in runs], "logs": [_line(line) for line in lines]})
        else:
            raise _unknown(visit)

    async def act(self, visit: Visit) -> None:
        """POST /v1/requests/ID/cancel, retry, redeliver. Raises AlreadyOver, and NotRepeatable of a request that cannot run again."""
        request, action = await self._asked(visit)
        if action == "cancel":
            if not await self._jobs.cancel(_scope(visit), request.id):
                raise AlreadyOver(f"the request {request.id} is over", hint=f"GET {PATH}/{request.id} tells how it ended")
            await _answer(visit, await self._shown(await self._jobs.of(_scope(visit), request.id)), 202)
        elif action == "retry":
            await _answer(visit, await self._shown(await self._jobs.retry(_scope(visit), request.id)), 202)
        elif action == "redeliver":
            await self._webhooks.redeliver(visit, request.id)
        else:
            raise _unknown(visit)

    async def remove(self, visit: Visit) -> None:
        """DELETE /v1/requests/ID: its payloads, files and log are erased at once; one that waits or runs is given up."""
        request, action = await self._asked(visit)
        if action:
            raise _unknown(visit)
        await self._jobs.remove(_scope(visit), request.id)
        await _answer(visit, {"object": "request.deleted", "id": request.id, "deleted": True})

    async def _asked(self, visit: Visit) -> tuple[Request, str]:
        """The request of the path, and what stands behind it there."""
        id, _, action = visit.params[0].partition("/")
        return await self._jobs.of(_scope(visit), id), action

    async def _shown(self, request: Request) -> dict[str, Any]:
        told, failed = request.told, request.done and request.state is not State.SUCCEEDED
        error = {"type": told.get("error_type"), "message": told.get("error")} if failed else None
        return {
            "object": "request",
            "id": request.id,
            "app": request.app,
            "path": request.path,
            "lane": request.lane,
            "caller": request.caller,
            "state": request.state.name.lower(),
            "priority": "low" if request.prio == LOW else "normal",
            "position": await self._jobs.position(request) if request.waits else None,
            "attempt": request.attempt,
            "runs": request.runs,
            "deaths": request.deaths,
            "created_at": _time(request.created_at),
            "claimed_at": _time(request.claimed_at),
            "finished_at": _time(request.finished_at),
            "start_deadline": _time(request.start_deadline),
            "cancel_at": _time(request.cancel_at),
            "inference_s": told.get("inference_time"),
            "status": request.status,
            "error": error,
            "payload_gone": request.payload_gone,
            "webhook": request.webhook_url,
        }


def entries(jobs: Jobs, webhooks: Webhooks) -> list[Entry]:
    """The routes of this door."""
    door = RequestsDoor(jobs, webhooks)
    return [
        Entry("GET", PATH, door.entries, openai.error),
        Entry("GET", f"{PATH}/*", door.look, openai.error),
        Entry("POST", f"{PATH}/*", door.act, openai.error),
        Entry("DELETE", f"{PATH}/*", door.remove, openai.error),
    ]


def _scope(visit: Visit) -> str | None:
    """The only caller whose requests are there for this one; None for everybody's."""
    return None if visit.caller in ADMINISTRATORS else visit.caller


def _filters(query: bytes) -> dict[str, str]:
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    for name in given:
        if name not in FILTERS:
            raise BadRequest(f"{name[:80]!r} is no filter of requests; there are {', '.join(FILTERS)}", param=name[:80])
    return given


def _limit(text: str) -> int:
    found = whole(text, 1, MOST)
    if found is None:
        raise BadRequest(f"limit is {text[:80]!r}; it is a whole number from 1 to {MOST}", param="limit")
    return found


def _states(given: dict[str, str]) -> tuple[State, ...]:
    """Those that `state` names, separated by commas, or `status` in fal's words; empty for all."""
    names, status = given.get("state", ""), given.get("status", "")
    if names and status:
        raise BadRequest("state and status say the same in two ways; give one", param="status")
    if status and status not in STATUSES:
        raise BadRequest(f"status is {status[:80]!r}; it is one of {', '.join(STATUSES)}", param="status")
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in STATES:
            raise BadRequest(f"state is {name[:80]!r}; it is one or more of {', '.join(STATES)}, separated by commas", param="state")
    return STATUSES[status] if status else tuple(STATES[name] for name in wanted)


def _line(line: Line) -> dict[str, Any]:
    return {"attempt": line.attempt, "at": _time(line.at), "level": line.level, "message": line.message}


def _run(attempt: int, began: float, ended: float, outcome: str) -> dict[str, Any]:
    return {"attempt": attempt, "began_at": _time(began), "ended_at": _time(ended), "outcome": outcome}


def _time(at: float | None) -> float | None:
    return None if at is None else round(at, 3)


def _unknown(visit: Visit) -> NotFound:
    return NotFound(f"there is no {visit.method} {visit.path[:200]} here", hint="docs/doors.md lists what can be done with a request")


async def _answer(visit: Visit, told: dict[str, Any], status: int = 200) -> None:
    await visit.answer(msgspec.json.encode(told), {"cache-control": "no-store"}, status)
