"""fal's queue, hidden from callers: submit, poll the status, fetch the result, and cancel what nobody waits for any more.

The key goes to the provider's own host only: a link to another one that a reply names as its status, result or cancel address is
refused. Files of a result are fetched without the key, from that host or from a public https address. A request that was taken is not
made again here, since it would be paid for twice: what became of it is told as `result_lost`. Its handle is told before the first look, and
a run that has one goes straight to looking.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

from sensorium import egress
from sensorium.errors import AddressRefused, SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.exchange import JSON
from sensorium.routing.call import Call, Provider, Reply, Route
from sensorium.routing.payload import Payload
from sensorium.wire import fal

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 0.2, 2.0, 1.5  # between two looks at the status
PAUSE_S: Final = 1.0  # between two tries of the result or of a file
SILENT_S: Final = 60.0  # after which a request whose status cannot be read counts as lost
CANCEL_S: Final = 10.0
ANSWER_S: Final = 30.0  # that the queue may take to answer anything but the submit
TRIES: Final = 3
MOST_FILES: Final = 16  # of one result
STATUS_BYTES, RESULT_BYTES, FILE_BYTES = 4 * 1024 * 1024, 128 * 1024 * 1024, 256 * 1024 * 1024
TRANSIENT: Final = (401, 403, 408, 429, 500, 502, 503, 504)  # of a status: they say nothing about the request
GONE: Final = (404, 410, 499)  # of a result
EVENTS: Final = "text/event-stream"
ADDRESSES: Final = ("status_url", "response_url", "cancel_url")
_ID: Final = re.compile(r"[0-9A-Za-z_.:-]{1,128}")


To = Literal["queue", "own file", "public file"]


class Ask(Protocol):
    """One HTTP request to `url`; only the queue gets the provider's key, and a public file comes from a checked address."""

    async def __call__(self, method: str, url: str, data: bytes | None = None, to: To = "queue") -> Reply: ...


@dataclass(frozen=True, slots=True)
class Handle:
    """A request in the queue: its id, and where it is asked for, on the provider's own host."""

    id: str
    status_url: str
    response_url: str
    cancel_url: str


def starting(provider: Provider) -> dict[str, str]:
    """The header of a submit that lets fal drop a request which nobody can be waiting for any more when its turn comes."""
    return {"x-fal-request-timeout": f"{provider.timeout_s:g}"}


def spoken(call: Call, route: Route) -> bool:
    """Whether this call is one of the queue's requests."""
    return route.dialect == "fal" and call.method == "POST"


async def _unkept(handle: Handle) -> None:
    """A request that nobody takes up again."""


def followed(route: Route, id: str, urls: Mapping[str, str]) -> Handle | None:
    """The handle of a request that an earlier run made; None when the provider is at another address now."""
    try:
        return Handle(id, *(_own(route.provider, urls.get(name)) for name in ADDRESSES))
    except UpstreamFailed:
        return None


class Job:
    """One call through the queue. `clock` and `sleep` are in seconds, `now` is in seconds since the epoch.

    `known` is told the handle of the request once it is made; with `taken`, that of an earlier run, none is made.
    """

    def __init__(
        self,
        ask: Ask,
        call: Call,
        route: Route,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        now: float,
        known: Callable[[Handle], Awaitable[None]] = _unkept,
        taken: Handle | None = None,
    ) -> None:
        self._known, self._taken = known, taken
        self._ask, self._call, self._route = ask, call, route
        self._clock, self._sleep, self._now = clock, sleep, int(now)
        self._until = clock() + route.provider.timeout_s
        self._submitting: asyncio.Future[Handle | Reply] | None = None
        self._over = False

    @property
    def abandoned(self) -> bool:
        """Whether a request is left in the queue that `cancel` should end."""
        return self._submitting is not None and not self._over

    async def finished(self, sent: Payload) -> Reply:
        """The app's output in the caller's dialect, or an error of fal's or of the app's, as it came.

        Raises UpstreamRefused with code result_lost when the result can no longer be had, deadline_exceeded when it takes too long,
        UpstreamFailed for replies that make no sense, and what `ask` raises.
        """
        # Whoever leaves now leaves a request behind as well: it must be known to be cancelled.
        self._submitting = asyncio.ensure_future(self._begun(sent))
        handle = await asyncio.shield(self._submitting)
        if isinstance(handle, Reply):
            return handle
        told = await self._completed(handle)
        self._over = True
        reply = await self._result(handle, failed=bool(told.get("error")))
        if reply.status != 200:
            return reply
        found = fal.result(await reply.whole(RESULT_BYTES), self._name)
        links = tuple(dict.fromkeys(fal.links(found)))
        if len(links) > MOST_FILES:
            raise UpstreamFailed(f"{self._name} answered with {len(links)} files; at most {MOST_FILES} are fetched")
        files = {url: await self._file(url) for url in links}
        media, body = await asyncio.to_thread(self._answer, found, files, handle)
        return replace(_whole(media, body, handle, self._route), changes=sent.changes)

    async def cancel(self) -> None:
        """Take the request out of the queue, or ask its runner to stop; whether that works is not known to anybody who waits."""
        if self._submitting is None:
            return
        with suppress(SensoriumError, TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                handle = await self._submitting
                reply = handle if isinstance(handle, Reply) else await self._ask("PUT", handle.cancel_url)
                await reply.close()

    @property
    def _name(self) -> str:
        return self._route.provider.name

    def _answer(self, found: dict[str, Any], files: fal.Files, handle: Handle) -> tuple[str, bytes]:
        match self._route.modality:
            case "image":
                return JSON, fal.drawn(found, files, self._name)
            case "video":
                return JSON, fal.filmed(found, files, self._name)
        identity = {"id": f"chatcmpl-{handle.id}", "created": self._now, "model": self._route.upstream}
        return EVENTS if self._call.stream else JSON, fal.answered(found, self._call.members, identity, self._name)

    async def _begun(self, sent: Payload) -> Handle | Reply:
        if self._taken is not None:
            return self._taken
        handle = await self._submit(sent)
        if isinstance(handle, Handle):
            await self._known(handle)
        return handle

    async def _submit(self, sent: Payload) -> Handle | Reply:
        """The request that was made, or the answer of fal's that says no. Raises UpstreamFailed for one that cannot be used."""
        try:
            reply = await self._ask("POST", sent.url, sent.data)
        except SensoriumError:
            self._over = True
            raise
        if reply.status >= 400:
            self._over = True
            return reply
        told = fal.result(await reply.whole(STATUS_BYTES), self._name)
        id, *urls = (told.get(name) for name in ("request_id", *ADDRESSES))
        if reply.status >= 300 or not isinstance(id, str) or not _ID.fullmatch(id):
            raise UpstreamFailed(f"{self._name} answered {reply.status} without a usable request id")
        return Handle(id, *(_own(self._route.provider, url) for url in urls))

    async def _completed(self, handle: Handle) -> dict[str, Any]:
        """The last status of the request."""
        pause, heard, told = FIRST_PAUSE_S, self._clock(), "still works on it"
        while self._clock() + pause < self._until:
            await self._sleep(pause)
            pause = min(pause * GROWTH, LONGEST_PAUSE_S)
            try:
                reply = await self._ask("GET", handle.status_url)
                if reply.status in GONE or (reply.status >= 300 and reply.status not in TRANSIENT):
                    await reply.close()
                    self._over = reply.status in GONE
                    raise self._lost(f"answered {reply.status} when asked for it")
                body, told = await reply.whole(STATUS_BYTES), f"answered {reply.status}"
                if reply.status < 300:
                    heard, status = self._clock(), fal.result(body, self._name)
                    if status.get("status") == "COMPLETED":
                        return status
                    told = "still works on it"
            except SensoriumError as error:
                if not error.retryable:
                    raise
                told = f"cannot be asked: {error.message}"
            if self._clock() - heard > SILENT_S:
                raise self._lost(told)
        raise UpstreamRefused(
            f"{self._name} took the call, but the hub waits no longer for its result: {self._name} {told}",
            status=504,
            code="deadline_exceeded",
            source=self._name,
        )

    async def _result(self, handle: Handle, failed: bool) -> Reply:
        """The answer that is the result. Of a request that failed it is an error, which may look like a passing one."""
        told, reply = "", None
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(PAUSE_S)
            try:
                reply = await self._ask("GET", handle.response_url)
            except SensoriumError as error:
                told, reply = f"cannot be asked: {error.message}", None
                continue
            told = f"answered {reply.status}"
            if reply.status in GONE or 201 <= reply.status < 400:
                await reply.close()
                break
            if failed or reply.status not in TRANSIENT:
                return reply
            await reply.close()
        raise self._lost(told, gone=reply is not None and reply.status not in TRANSIENT)

    async def _file(self, url: str) -> bytes:
        """A file of the result, fetched without the key."""
        target, to = await self._permitted(url)
        told = ""
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(PAUSE_S)
            try:
                got = await self._ask("GET", target.url, to=to)
                if got.status == 200:
                    return await got.whole(FILE_BYTES)
                await got.close()
                told = f"answered {got.status}"
            except SensoriumError as error:
                told = error.message
        raise self._lost(f"its file store at {target.host} {told}", gone=False)

    async def _permitted(self, url: str) -> tuple[egress.Target, To]:
        """Where a file is. Raises UpstreamFailed unless a file is on the provider's own host or at a public https address."""
        try:
            target = egress.target(url)
            if _origin(target) == _origin(egress.target(self._route.provider.base_url)):
                return target, "own file"
            if target.scheme != "https":
                raise AddressRefused("it is not https")
            await egress.check(target.host, target.port, ())
        except AddressRefused as error:
            raise UpstreamFailed(f"{self._name} put its result where the hub does not go: {error.message}") from None
        return target, "public file"

    def _lost(self, told: str, gone: bool = True) -> UpstreamRefused:
        """`gone` is False where the result is still there, for a run that asks again."""
        message = f"{self._name} took the call, but its result is lost: {self._name} {told}"
        hint = "send the call again; the work is done anew"
        error = UpstreamRefused(message, status=502, code="result_lost", source=self._name, hint=hint)
        error.lost = gone
        return error


def _own(provider: Provider, url: Any) -> str:
    """The address that `url` names, rebuilt, on the provider's own host. Raises UpstreamFailed for any other."""
    try:
        own, theirs = egress.target(provider.base_url), egress.target(url if isinstance(url, str) else "")
    except AddressRefused as error:
        raise UpstreamFailed(f"{provider.name} named an address that cannot be used: {error.message}") from None
    if _origin(own) != _origin(theirs):
        raise UpstreamFailed(f"{provider.name} named an address on another host ({theirs.host[:80]}), where its key does not go")
    return theirs.url


def _origin(target: egress.Target) -> tuple[str, str, int]:
    return target.scheme, target.host, target.port


def _whole(media: str, body: bytes, handle: Handle, route: Route) -> Reply:
    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async def close() -> None:
        """Nothing is open."""

    headers = {"content-type": media, "content-length": str(len(body)), "x-upstream-request-id": handle.id}
    return Reply(200, headers, chunks(), close, route)
