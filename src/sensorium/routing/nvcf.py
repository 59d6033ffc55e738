"""NVIDIA's asynchronous protocol, hidden from callers: 202 is polled to its end, a 302 fetched and unpacked (NVIDIA page, section 6).

Polls are long polls that follow each other at once: a job that nobody asked for within its gap limit is cancelled there. A result is
given out once, so an answer that got lost is told as `result_lost`; the call is not made again here, since it would be paid for twice.
The queue's calls poll for at most QUEUE_POLL_S, so that a hub that takes over from a dead one comes within the gap (twice that).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sensorium import egress, failpoints
from sensorium.errors import AddressRefused, SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Provider, Reply, Route
from sensorium.wire import video, zipped

Get = Callable[[str, Mapping[str, str] | None], Awaitable[Reply]]
"""`get(url, headers)` with the provider's key; without key and further headers where `headers` is None."""

KEPT: Final = ("location",)
MARGIN_S: Final = 5.0  # an answer may come that much after its poll time
POLL_MOST_S: Final = 3600.0
QUEUE_POLL_S: Final = 30.0
GAP_LEAST_S: Final = 10.0
PAUSE_S: Final = 1.0  # between two polls, where the first was answered at once or failed
TRIES: Final = 3
PROGRESS_BYTES, RESULT_BYTES = 16 * 1024 * 1024, 256 * 1024 * 1024
TRANSIENT: Final = (401, 403, 408, 429, 502, 503)  # of a poll: the job goes on, and its result is not used up
_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one call waits: seconds of the first poll, seconds that may lie between two polls, when it is too late, and where to ask."""

    poll_s: float
    gap_s: float
    until: float
    status_url: str

    @classmethod
    def of(cls, provider: Provider, now: float, most_s: float = POLL_MOST_S) -> Patience:
        """What a provider's timeouts leave, with polls of at most `most_s` seconds."""
        poll = min(max(1.0, min(provider.idle_s, provider.timeout_s) - MARGIN_S), most_s)
        parts = urlsplit(provider.base_url)
        root = f"{parts.scheme}://{parts.netloc}{parts.path.partition('/v1')[0]}/v1/status"
        return cls(poll, max(2 * poll, GAP_LEAST_S), now + provider.timeout_s, provider.status_url or root)

    def polling(self, now: float) -> dict[str, str]:
        """The header of a request that is sent now."""
        return {"nvcf-poll-seconds": f"{max(1.0, min(self.poll_s, self.until - now)):.0f}"}


def spoken(route: Route) -> bool:
    """Whether this route may answer that way."""
    return route.modality in ("image", "video") and route.dialect != "openai" and not route.provider.local


async def _unkept(id: str, url: str) -> None:
    """A job that nobody takes up again."""


class Job:
    """One call from its first answer to its result. `clock` and `sleep` are in seconds; `known` is told a job's id and where it is polled,
    before the first poll."""

    def __init__(
        self,
        get: Get,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        patience: Patience,
        known: Callable[[str, str], Awaitable[None]] = _unkept,
    ) -> None:
        self._get, self._clock, self._sleep, self._patience, self._known = get, clock, sleep, patience, known

    async def finished(self, first: Reply) -> Reply:
        """The reply that is the result or an error of its own.

        Raises UpstreamRefused with code result_lost when the result can no longer be had, deadline_exceeded when it takes too long.
        """
        if first.status != 202:
            return replace(await self._fetched(first), changes=first.changes)
        id = await _id(first)
        url = self.status_url(id)
        failpoints.reach("job_known")
        await self._known(id, url)
        failpoints.reach("job_kept")
        return replace(await self.taken_up(url, first.route), changes=first.changes)

    async def taken_up(self, url: str, route: Route) -> Reply:
        """The same for a job that an earlier run began: it is polled, and nothing is sent again."""
        reply = await self._polled(url, route)
        while reply.status == 202:
            await reply.whole(PROGRESS_BYTES)
            reply = await self._polled(url, route)
        return await self._fetched(reply)

    def status_url(self, id: str) -> str:
        """Where the job is polled."""
        return f"{self._patience.status_url}/{id}"

    async def _polled(self, url: str, route: Route) -> Reply:
        """The next answer to a poll, after such that say nothing about the job."""
        heard, told = self._clock(), "still works on it"
        while (now := self._clock()) < self._patience.until:
            try:
                reply = await self._get(url, self._patience.polling(now))
                told = f"answered {reply.status}"
            except SensoriumError as error:
                if not error.retryable:
                    raise
                reply, told = None, f"cannot be asked: {error.message}"
            if reply is not None and reply.status not in TRANSIENT:
                if reply.status in (404, 504):
                    await reply.close()
                    raise _lost(route, told)
                if reply.status == 202 and self._clock() - now < PAUSE_S:
                    await self._sleep(PAUSE_S)
                return reply
            if reply is not None:
                await reply.close()
            if self._clock() + PAUSE_S - heard > self._patience.gap_s:
                raise _lost(route, told)
            await self._sleep(PAUSE_S)
        raise UpstreamRefused(
            f"{route.provider.name} took the call, but the hub waits no longer for its result: {route.provider.name} {told}",
            status=504,
            code="deadline_exceeded",
            source=route.provider.name,
        )

    async def _fetched(self, reply: Reply) -> Reply:
        """The reply, or the result behind a 302: a zip on a store that wants no key."""
        if reply.status != 302:
            return reply
        await reply.close()
        url = reply.headers.get("location", "")
        await _permitted(url, reply.route)
        told = ""
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(PAUSE_S)
            try:
                got = await self._get(url, None)
                if got.status == 200:
                    return _unpacked(await got.whole(RESULT_BYTES), reply)
                await got.close()
                told = f"answered {got.status}"
            except SensoriumError as error:
                told = error.message
        raise _lost(reply.route, f"its store {told}")


def _unpacked(data: bytes, reply: Reply) -> Reply:
    found = zipped.result(data, reply.route.provider.name, RESULT_BYTES)
    body = video.joined(found.response, found.film)
    kept = {name: text for name, text in reply.headers.items() if name.startswith("nvcf-")}
    media = {"content-type": video.media_type(body), "content-length": str(len(body))}

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async def close() -> None:
        """Nothing is open."""

    return Reply(200, kept | media, chunks(), close, reply.route)


async def _id(reply: Reply) -> str:
    """The job's id: in a header, or in the JSON body of old. The reply is used up, but its status and route stay."""
    body = await reply.whole(PROGRESS_BYTES)
    id = reply.headers.get("nvcf-reqid", "")
    if not id:
        try:
            told = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = None
        id = str(told.get("requestId") or told.get("reqId") or "") if isinstance(told, dict) else ""
    if not _ID.fullmatch(id):
        raise UpstreamFailed(f"{reply.route.provider.name} answered 202 without a usable request id")
    return id


async def _permitted(url: str, route: Route) -> None:
    """Raises UpstreamFailed unless the store is on the provider's own host or is a public https address."""
    own, theirs = urlsplit(route.provider.base_url), urlsplit(url)
    if (own.scheme, own.netloc) == (theirs.scheme, theirs.netloc):
        return
    try:
        target = egress.target(url)
        if target.scheme != "https":
            raise AddressRefused("it is not https")
        await egress.check(target.host, target.port, ())
    except AddressRefused as error:
        raise UpstreamFailed(f"{route.provider.name} put its result where the hub does not go: {error.message}") from None


def _lost(route: Route, told: str) -> UpstreamRefused:
    name = route.provider.name
    message = f"{name} took the call, but its result is lost: {name} {told}"
    error = UpstreamRefused(message, status=502, code="result_lost", source=name, hint="send the call again; the work is done anew")
    error.lost = True
    return error
