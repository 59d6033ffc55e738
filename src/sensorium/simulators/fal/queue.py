"""The hosts of the queue and of direct calls: submit, status, status stream, result, cancel, run (section 4)."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from sensorium.simulators.fal.apps import APPS, Store, Work
from sensorium.simulators.fal.auth import Auth
from sensorium.simulators.fal.faults import Faults
from sensorium.simulators.fal.options import Options
from sensorium.simulators.fal.replies import DOCUMENTED, UNKNOWN_REQUEST, failed, said, unprocessable
from sensorium.simulators.fal.requests import FOREVER, Queue, Request, told
from sensorium.simulators.replies import Refused, Reply, compact, json_reply

LOOK_S: Final = 0.1  # between two looks of a status stream
PING_S: Final = 15.0
LEAST_START_S: Final = 0.1
BUSY: Final = {"retry-after": "1", "x-fal-needs-retry": "1"}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a host: `base` is how the caller calls that host, `store` keeps a file for it."""

    method: str
    path: str
    query: str
    header: Callable[[str], str]
    body: bytes
    base: str
    store: Store

    @property
    def segments(self) -> list[str]:
        """The parts of the path."""
        return [part for part in self.path.split("/") if part]

    @property
    def streaming(self) -> bool:
        """Whether a status stream is asked for."""
        return self.method == "GET" and self.segments[-2:] == ["status", "stream"] and "requests" in self.segments

    def parameter(self, name: str) -> str:
        """A value of the query string, "" when missing."""
        return parse_qs(self.query).get(name, [""])[0]

    @property
    def logs(self) -> bool:
        """Whether log lines are wanted: the official clients write 1 and true."""
        return self.parameter("logs").lower() in ("1", "true")


class QueueHost:
    """Answers of both hosts."""

    def __init__(
        self, options: Options, auth: Auth, faults: Faults, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._options, self._auth, self._faults, self._now, self._sleep = options, auth, faults, now, sleep
        self._queue = Queue(options.slots, now)
        self._draw = random.Random(options.seed)

    def answer(self, ask: Ask) -> Reply:
        """Any request to the queue but a status stream. Raises Refused."""
        account = self._auth.account(ask.header("authorization"))
        if "requests" not in ask.segments:
            return self._submit(ask, account)
        request, tail = self._found(ask, account)
        match ask.method, tail:
            case "GET", ["status"]:
                return self._status(ask, request)
            case "GET", [] | ["response"]:
                return self._result(ask, request)
            case "PUT", ["cancel"]:
                return self._cancel(request)
        return said(405 if tail in ([], ["response"], ["status"], ["cancel"]) else 404, "Method Not Allowed" if tail else "Not Found")

    async def direct(self, ask: Ask) -> Reply:
        """A call to an app, answered when it is done. Raises Refused."""
        account = self._auth.account(ask.header("authorization"))
        app, given = self._app(ask), self._input(ask)
        if self._queue.busy(account):
            reply = said(429, "Too many requests: your account's concurrency limit is reached", BUSY)
            return Reply(429, reply.body, {**reply.headers, "x-fal-error-type": "concurrent_requests_limit"})
        self._stopped(app)
        kind, seconds = self._faults.pick("work", app)
        await self._sleep(self._options.work_s + seconds)
        return self._run(app, given, ask.store, kind)

    def events(self, ask: Ask) -> AsyncIterator[bytes]:
        """The events of a status stream. Raises Refused before the first."""
        account = self._auth.account(ask.header("authorization"))
        request, _ = self._found(ask, account)
        return self._events(ask, request)

    async def _events(self, ask: Ask, request: Request) -> AsyncIterator[bytes]:
        lines, before, silent = 0, "", 0.0
        while True:
            self._queue.find(request.id)
            status = self._told(ask, request, since=lines)
            shown = json.dumps({**status, "logs": None}) + str(len(request.logs))
            if shown != before:
                before, silent = shown, 0.0
                lines = len(request.logs) if status["status"] != "IN_QUEUE" else 0
                yield b"data: " + compact(status) + b"\n\n"
            if request.state == "COMPLETED":
                return
            await self._sleep(LOOK_S)
            silent += LOOK_S
            if silent >= PING_S:
                silent = 0.0
                yield b": ping\n\n"

    def _submit(self, ask: Ask, account: str) -> Reply:
        if ask.method != "POST":
            return said(405, "Method Not Allowed")
        app, given = self._app(ask), self._input(ask)
        most = ask.parameter("fal_max_queue_length")
        if most.isdecimal() and self._queue.waiting(app) > int(most):
            return said(429, "The queue is full", BUSY)
        twist = self._stopped(app)
        kind, seconds = self._faults.pick("work", app)
        request = Request(app, account, self._now(), self._options.work_s + seconds, lambda: self._run(app, given, ask.store, kind))
        request.start_by = request.submitted + self._start_s(ask)
        request.waits = kind == "never"
        request.work_s = FOREVER if kind == "stuck" else request.work_s
        self._queue.submit(request)
        urls = self._urls(ask, request, elsewhere=twist == "wrong-host")
        told = {"status": "IN_QUEUE", "request_id": request.id, **urls, "queue_position": self._queue.position(request)}
        return json_reply({**told, "logs": None, "metrics": {}, "gateway_request_id": request.id})

    def _status(self, ask: Ask, request: Request) -> Reply:
        kind = self._faults.pick("status", request.app)[0]
        if kind:
            return UNKNOWN_REQUEST if kind == "lost" else failed("internal_error", "Internal server error")
        return json_reply(self._told(ask, request), 200 if request.state == "COMPLETED" else 202)

    def _told(self, ask: Ask, request: Request, since: int = 0) -> dict[str, Any]:
        status = told(request, self._queue.position(request), ask.logs, since) | self._urls(ask, request)
        if request.reply is not None and request.reply.status >= 400:
            detail = json.loads(request.reply.body)
            listed = detail["detail"] if isinstance(detail["detail"], list) else None
            status["error"] = f"{listed[0]['loc'][-1]}: {listed[0]['msg']}" if listed else detail["detail"]
            status["error_type"] = "validation_error" if listed else detail["error_type"]
        return status

    def _result(self, ask: Ask, request: Request) -> Reply:
        if request.reply is None:
            return json_reply({"detail": "Request is still in progress", "request_id": request.id, **self._urls(ask, request)}, 400)
        if self._faults.pick("result", request.app)[0]:
            return failed("runner_scheduling_failure", "Service unavailable")
        return Reply(request.reply.status, request.reply.body, {**request.reply.headers, "x-fal-request-id": request.id})

    def _cancel(self, request: Request) -> Reply:
        if request.state == "COMPLETED":
            return json_reply({"status": "ALREADY_COMPLETED"}, 400)
        self._queue.cancel(request)
        return json_reply({"status": "CANCELLATION_REQUESTED"}, 202)

    def _found(self, ask: Ask, account: str) -> tuple[Request, list[str]]:
        """The request that a path names below its app, and what follows its id."""
        at = ask.segments.index("requests")
        id, *tail = ask.segments[at + 1 :] or [""]
        request = self._queue.find(id)
        if request is None or request.key != account or request.app.split("/")[:2] != ask.segments[:2]:
            raise Refused(UNKNOWN_REQUEST)
        return request, tail

    def _app(self, ask: Ask) -> str:
        app = "/".join(ask.segments)
        if app not in APPS:
            raise Refused(said(404, f"Application '{app}' not found"))
        return app

    def _input(self, ask: Ask) -> dict[str, Any]:
        try:
            given = json.loads(ask.body)
        except (ValueError, RecursionError) as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else 0
            told = {"loc": ["body", at], "msg": "JSON decode error", "type": "json_invalid", "input": {}, "ctx": {"error": str(error)[:80]}}
            raise Refused(unprocessable([told | {"url": f"{DOCUMENTED}json_invalid"}])) from None
        if not isinstance(given, dict):
            words, kind = "Input should be a valid dictionary or object to extract fields from", "model_attributes_type"
            raise Refused(unprocessable([{"loc": ["body"], "msg": words, "type": kind, "url": f"{DOCUMENTED}{kind}", "input": given}]))
        return given

    def _start_s(self, ask: Ask) -> float:
        """Seconds until the start deadline. Raises Refused for a header that is none."""
        text = ask.header("x-fal-request-timeout")
        if not text:
            return FOREVER
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not seconds > LEAST_START_S or math.isinf(seconds):
            raise Refused(failed("bad_request", f"X-Fal-Request-Timeout must be a number above {LEAST_START_S}"))
        return seconds

    def _stopped(self, app: str) -> str:
        """The fault that a submit meets. Raises Refused for those that end it."""
        kind, seconds = self._faults.pick("submit", app)
        wait = {"retry-after": str(math.ceil(seconds))}
        match kind:
            case "429":
                raise Refused(said(429, "Too many requests", wait))
            case "500":
                raise Refused(failed("internal_error", "Internal server error"))
            case "503":
                raise Refused(failed("runner_scheduling_failure", "No runner could be scheduled", wait))
        return kind

    def _run(self, app: str, given: dict[str, Any], store: Store, kind: str) -> Reply:
        if kind == "error":
            return failed("runner_server_error", "The app failed")
        try:
            return json_reply(APPS[app](Work(given, store, self._draw)))
        except Refused as refused:
            return refused.reply

    def _urls(self, ask: Ask, request: Request, elsewhere: bool = False) -> dict[str, str]:
        base = _moved(ask.base) if elsewhere else ask.base
        at = f"{base}/{'/'.join(request.app.split('/')[:2])}/requests/{request.id}"
        return {"response_url": at, "status_url": f"{at}/status", "cancel_url": f"{at}/cancel"}


def _moved(base: str) -> str:
    """The same place under another name of this machine."""
    parts = urlsplit(base)
    other = "127.0.0.1" if parts.hostname == "localhost" else "localhost"
    return parts._replace(netloc=f"{other}:{parts.port}" if parts.port else other).geturl()
