"""fal's queue door: submit, look, fetch the result, cancel, list one's own (fal.md, sections 4.2 to 4.6; jobs.md, sections 7 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from sensorium.api.base_url import base_url
from sensorium.api.fal_requests import Apps, Place, asked, place, target
from sensorium.api.fal_run import EVENTS, OPENAPI, PING, PING_S, described
from sensorium.api.hold import Hold
from sensorium.api.router import Entry
from sensorium.api.visit import Visit
from sensorium.apps.queued import NAME
from sensorium.errors import BadRequest, Busy, MethodNotAllowed, NotFound
from sensorium.jobs.logs import Line
from sensorium.jobs.request import Asked, Request, State, UnknownRequest
from sensorium.wire import fal_errors, fal_status, fal_submit, sse
from sensorium.wire.fal_errors import REQUEST_ID
from sensorium.wire.fal_status import COMPLETED, IN_PROGRESS, IN_QUEUE, Extras, Look, Standing, Word
from sensorium.wire.whole import whole

BELOW: Final = "/fal/queue/*"
PAGE, LONGEST_PAGE = 20, 100
WORDS: Final[dict[State, Word]] = {
    State.QUEUED: "IN_QUEUE",
    State.RUNNING: "IN_PROGRESS",
    State.DELAYED: "IN_QUEUE",
    State.SUCCEEDED: "COMPLETED",
    State.FAILED: "COMPLETED",
    State.CANCELLED: "COMPLETED",
}
METHODS: Final = {(): "GET", ("response",): "GET", ("status",): "GET", ("status", "stream"): "GET", ("cancel",): "PUT"}
Outlook = Callable[[Request, int], tuple[float | None, str | None]]
"""Of an unfinished request and its position: the seconds until it may be over, and the state of its model. Each None when unknown."""


class Queue(Protocol):
    """What the door needs of the queue (`jobs.dispatcher.Jobs`)."""

    async def submit(self, asked: Asked) -> tuple[Request, bool]: ...
    async def of(self, caller: str | None, id: str) -> Request: ...
    async def position(self, request: Request) -> int: ...
    async def changed(self, request: Request, seconds: float) -> Request: ...
    async def lines(self, request: Request, after: tuple[int, int] = (0, 0)) -> list[Line]: ...
    async def cancel(self, caller: str | None, id: str) -> bool: ...
    async def output(self, request: Request) -> bytes | None: ...
    async def listed(self, caller: str | None, limit: int, after: str | None = None, **which: Any) -> list[Request]: ...


class ResultGone(NotFound):
    """The request is known and over, and its result is not kept any more."""

    code, status = "result_gone", 410


def unknown_outlook(_request: Request, _position: int) -> tuple[float | None, str | None]:
    """Nothing is known."""
    return None, None


class QueueDoor:
    """Handlers below /fal/queue. `check_webhook` raises Refused for a URL that is not called; `public_url` begins links in replies."""

    def __init__(
        self,
        queue: Queue,
        apps: Apps,
        check_webhook: Callable[[str], None],
        public_url: str | None = None,
        *,
        outlook: Outlook = unknown_outlook,
        hold: Hold | None = None,
    ) -> None:
        self._queue, self._apps, self._public = queue, apps, public_url
        self._check_webhook, self._outlook = check_webhook, outlook
        self._hold = hold or Hold()

    async def post(self, visit: Visit) -> None:
        """POST /fal/queue/OWNER/ALIAS[/SUB...]: submit. On disk when the reply goes out."""
        _no_request(visit)
        there = target(self._apps, visit, visit.params[0])
        wishes = fal_submit.read(visit.header, visit.query)
        if wishes.webhook_url is not None:
            self._check_webhook(wishes.webhook_url)
        body = fal_submit.checked(await visit.whole_body())
        base = base_url(visit, self._public)
        try:
            request, replayed = await self._queue.submit(asked(visit, there, wishes, body, base))
        except Busy as error:
            raise Busy(error.message, hint=error.hint, code="queue_full", retry_after=error.retry_after) from None
        where = fal_status.links(base, request.app, request.id)
        position = await self._queue.position(request) if request.waits else 0
        told = {REQUEST_ID: request.id} | ({"idempotent-replayed": "true"} if replayed else {})
        await visit.answer(fal_status.submitted(request.id, where, position), told)

    async def get(self, visit: Visit) -> None:
        """GET below the door: status, status/stream, the result, the list of requests, an app's openapi.json."""
        there = place(visit.params[0])
        if there is None:
            await self._unasked(visit)
        elif not there.id:
            await self._list(visit, there.app)
        elif there.tail == ("status",):
            await self._status(visit, await self._known(visit, there))
        elif there.tail in ((), ("response",)):
            await self._result(visit, await self._known(visit, there))
        elif there.tail == ("status", "stream"):
            await self._stream(visit, await self._known(visit, there))
        else:
            raise _misplaced(visit, there)

    async def put(self, visit: Visit) -> None:
        """PUT .../requests/ID/cancel."""
        there = place(visit.params[0])
        if there is None:
            target(self._apps, visit, visit.params[0])
            raise MethodNotAllowed("an app is called with POST", allow="POST")
        if not there.id or there.tail != ("cancel",):
            raise _misplaced(visit, there)
        found = await self._known(visit, there)
        asked = await self._queue.cancel(visit.caller, found.id)
        word, status = ("CANCELLATION_REQUESTED", 202) if asked else ("ALREADY_COMPLETED", 400)
        await visit.answer(fal_status.cancelled(word), {REQUEST_ID: found.id}, status)

    async def _known(self, visit: Visit, there: Place) -> Request:
        """The caller's request under the app that the path names. Raises UnknownRequest."""
        found = await self._queue.of(visit.caller, there.id)
        if found.work != NAME or found.app != there.app:
            raise UnknownRequest(f"no request {there.id[:80]} of {there.app[:80]} is known")
        return found

    async def _unasked(self, visit: Visit) -> None:
        if visit.params[0].endswith(OPENAPI):
            await described(visit, self._apps, base_url(visit, self._public))
            return
        target(self._apps, visit, visit.params[0])
        raise MethodNotAllowed("an app is called with POST; its description is at openapi.json below it", allow="POST")

    async def _status(self, visit: Visit, found: Request) -> None:
        look = fal_status.look(visit.query)
        found = await self._news(visit, found, look)
        lines = await self._queue.lines(found) if look.logs and not found.waits else []
        now = await self._standing(visit, found, lines if look.logs else None)
        await visit.answer(fal_status.status(now), {REQUEST_ID: found.id}, 200 if found.done else 202)

    async def _news(self, visit: Visit, found: Request, look: Look) -> Request:
        """The request, held back for a while where the caller has been told all this before. The first look is never held."""
        held = self._hold.counted()
        if found.done:
            self._hold.forget(visit.caller, found.id)
            return found
        told = self._hold.told(visit.caller, found.id)
        current = (found.ver, found.logged)
        if look.wait is not None:
            held = look.wait if told in (None, current) else 0.0
        elif told != current:
            held = 0.0
        if held > 0:
            await visit.whole_body()  # there is none, and from here on it is heard when the caller leaves
            found = await self._queue.changed(found, held)
        self._hold.remember(visit.caller, found.id, (found.ver, found.logged))
        return found

    async def _standing(self, visit: Visit, found: Request, lines: list[Line] | None) -> Standing:
        position = await self._queue.position(found) if found.waits else 0
        eta, model = self._outlook(found, position) if not found.done else (None, None)
        return Standing(
            found.id,
            WORDS[found.state],
            fal_status.links(base_url(visit, self._public), found.app, found.id),
            Extras(found.attempt, eta, model),
            position,
            None if lines is None else [fal_status.line(one.at, one.level, one.message) for one in lines],
            _told(found) if found.done else None,
        )

    async def _stream(self, visit: Visit, found: Request) -> None:
        look = fal_status.look(visit.query)
        await visit.whole_body()  # there is none, and from here on it is heard when the caller leaves
        await visit.begin(200, {**EVENTS, REQUEST_ID: found.id})
        before, last = b"", (0, 0)
        while True:
            lines = await self._queue.lines(found, last) if look.logs and not found.waits else []
            bare = fal_status.status(await self._standing(visit, found, None))
            if lines or bare != before:
                now = await self._standing(visit, found, lines if look.logs else None)
                await visit.send(sse.event(fal_status.status(now)))
                before, last = bare, (lines[-1].attempt, lines[-1].number) if lines else last
            if found.done:
                break
            newer = await self._queue.changed(found, PING_S)
            if (newer.ver, newer.logged) == (found.ver, found.logged):
                await visit.send(PING)
            found = newer
        await visit.end()

    async def _result(self, visit: Visit, found: Request) -> None:
        named = {REQUEST_ID: found.id}
        if not found.done:
            where = fal_status.links(base_url(visit, self._public), found.app, found.id)
            await visit.answer(fal_status.not_ready(found.id, where), named, 400)
            return
        told = _told(found)
        if found.state is State.CANCELLED:
            await visit.answer(fal_status.failure(told["error"], told["error_type"]), named | _typed(told), 499)
            return
        if told.get("timeout_type"):
            late = {fal_errors.TIMEOUT_TYPE: fal_errors.USER}
            await visit.answer(fal_status.failure(fal_status.TIMED_OUT, fal_status.TIMED_OUT_TYPE), named | _typed(told) | late, 504)
            return
        body = None if found.payload_gone else await self._queue.output(found)
        if found.state is State.SUCCEEDED and body is not None:
            await visit.answer(body, {**told.get("headers", {}), **named})
        elif found.state is State.SUCCEEDED or found.payload_gone:
            raise ResultGone("the result of this request is not kept any more")
        else:
            status, said = fal_errors.final(found.status or 500, told)
            await visit.answer(body or fal_status.failure(told["error"], told["error_type"]), said | named, status)

    async def _list(self, visit: Visit, app: str) -> None:
        asked = fal_submit.parameters(visit.query)
        limit, status = whole(asked.get("limit", str(PAGE)), 1, LONGEST_PAGE), asked.get("status", "").upper()
        if limit is None:
            raise BadRequest(f"limit is a number, 1..{LONGEST_PAGE}", param="limit")
        if status not in ("", IN_QUEUE, IN_PROGRESS, COMPLETED):
            raise BadRequest(f"status is one of {IN_QUEUE}, {IN_PROGRESS}, {COMPLETED}", param="status")
        which = {"app": app, "work": NAME, "states": [state for state, word in WORDS.items() if word == status]}
        found = await self._queue.listed(visit.caller, limit + 1, asked.get("after") or None, **which)
        page = [await self._row(visit, request) for request in found[:limit]]
        await visit.answer(fal_status.listed(page, found[limit - 1].id if len(found) > len(page) else None))

    async def _row(self, visit: Visit, found: Request) -> dict[str, Any]:
        now = fal_status.members(await self._standing(visit, found, None))
        times = {"created_at": found.created_at, "started_at": found.claimed_at, "ended_at": found.finished_at}
        shown = {name: None if at is None else fal_status.timestamp(at) for name, at in times.items()}
        return {**now, "app": f"{found.app}{found.path}", **shown}


def _told(found: Request) -> dict[str, Any]:
    """What came of an ended request; `error` and `error_type` are there whenever it did not succeed."""
    if found.state is State.CANCELLED:
        return {**found.told, "error": fal_status.CANCELLED, "error_type": fal_status.CANCELLED_TYPE}
    if found.state is State.FAILED:
        return {"error": "the request failed", "error_type": "internal_error", **found.told}
    return found.told


def _typed(told: dict[str, Any]) -> dict[str, str]:
    return {fal_errors.ERROR_TYPE: told["error_type"]}


def _no_request(visit: Visit) -> None:
    """Raises MethodNotAllowed or NotFound where the path names requests."""
    there = place(visit.params[0])
    if there is not None:
        raise _misplaced(visit, there)


def _misplaced(visit: Visit, there: Place) -> NotFound | MethodNotAllowed:
    """The error for a method or a tail that requests do not have."""
    allowed = METHODS.get(there.tail) if there.id else "GET"
    if allowed is None:
        return NotFound(f"a request has no {'/'.join(there.tail)[:80]}", hint="it has status, status/stream, response and cancel")
    return MethodNotAllowed(f"{visit.method} is not for {visit.path[:200]}; use {allowed}", allow=allowed)


def entries(door: QueueDoor) -> list[Entry]:
    """The routes of the queue."""
    handlers = {"POST": door.post, "GET": door.get, "PUT": door.put}
    return [Entry(method, BELOW, handler, fal_errors.error) for method, handler in handlers.items()]
