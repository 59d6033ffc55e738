"""The only HTTP client for model traffic: one call to one route, the reply streamed as it comes."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from sensorium import __version__, egress, fetch
from sensorium.errors import Cause, DeadlineExceeded, Unavailable, UpstreamFailed
from sensorium.exchange import JSON, PIECE
from sensorium.routing import falqueue, inline, nvcf, pictures, resume
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.metering import metered
from sensorium.routing.payload import Payload, payload
from sensorium.routing.repeat import NEEDS_RETRY
from sensorium.wire import anthropic

SHORTEST_KEY = 12  # characters of a key that is starred out of answers; a shorter one may occur in any bytes by chance
KEPT = (
    *("content-type", "content-length", "content-encoding", "cache-control", "x-accel-buffering", "deprecation", "sunset"),
    *("retry-after", "nvcf-reqid", "nvcf-status", "x-sensorium-caption", "x-sensorium-ignored", "x-sensorium-scope"),
)
KEPT_PREFIXES = ("x-ratelimit-", "ratelimit", "anthropic-ratelimit-")
UPSTREAM_IDS = ("x-request-id", "request-id")
MOST_PATIENT = 1000  # routes of which it is known that short polls end their jobs
log = logging.getLogger("sensorium.hub")


class Upstream:
    """Holds the connection pool. Open it once per process; `close` when the hub stops. `clock` and `sleep` are for polling, in seconds.

    `allow_egress` is the operator's list of private "host:port" that callers' picture URLs may name.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        allow_egress: Collection[str] = (),
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._fetch = partial(fetch.fetch, allow=allow_egress)
        self._session = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
        self._public: aiohttp.ClientSession | None = None
        self._cancelling: set[asyncio.Task[None]] = set()
        self._patient: set[tuple[str, str]] = set()

    async def send(self, call: Call, route: Route) -> Reply:
        """Send the call; return as soon as the status and headers are there. Redirects are not followed.

        Where a job of NVIDIA's outlives its first answer, that is its result's (`nvcf`), and so it is with fal's queue (`falqueue`); where
        OpenAI's pictures are asked for in genai, the reply is whole (`pictures`).
        Raises Unavailable when nobody answers at the address or the key is missing, UpstreamFailed when the connection
        breaks before the reply, DeadlineExceeded when it takes too long, and what `payload` and `inline.fitted` raise.
        """
        if pictures.translated(call, route):
            return metered(await pictures.drawn(call, route, self._send), call, hide=False)
        return await self._send(call, route)

    async def _send(self, call: Call, route: Route) -> Reply:
        sent = payload(call, route)
        if falqueue.spoken(call, route):
            return metered(await self._queued(call, route, sent), call, hide=False)
        if nvcf.spoken(route):
            return metered(await self._invoked(call, route, sent), call, hide=sent.counted)
        sent = await inline.fitted(sent, route, self._fetch)
        return metered(await self._asked(call, route, sent, headers(call, route, sent)), call, hide=sent.counted)

    async def _invoked(self, call: Call, route: Route, sent: Payload) -> Reply:
        held, provider = resume.hold(route, "nvcf"), route.provider
        brief = held is not None and (provider.name, route.upstream) not in self._patient
        patience = nvcf.Patience.of(provider, self._clock(), nvcf.QUEUE_POLL_S if brief else nvcf.POLL_MOST_S)

        async def get(url: str, poll: Mapping[str, str] | None) -> Reply:
            asked = Payload(url, None, None)
            said = {"accept-encoding": "identity"} if poll is None else {**headers(call, route, asked), **poll}
            return await self._asked(call, route, asked, said)

        async def known(id: str, url: str) -> None:
            if held is not None:
                await held.keep("nvcf", id, {"status_url": url}, time.time() + patience.gap_s)

        job = nvcf.Job(get, self._clock, self._sleep, patience, known)
        async with resume.settling(held) as settled:
            if held is not None and held.handle is not None:
                url = job.status_url(held.handle.id)
                if held.handle.urls.get("status_url") == url:
                    return await settled(replace(await job.taken_up(url, route), changes=sent.changes))
                await held.drop("it was polled at another address")
            sent, began = await inline.fitted(sent, route, self._fetch), self._clock()
            first = await self._asked(call, route, sent, headers(call, route, sent) | patience.polling(began))
            if brief and first.status == 504 and self._clock() - began >= patience.poll_s:
                return await settled(await self._in_one_piece(call, route, sent, first))
            return await settled(await job.finished(first))

    async def _in_one_piece(self, call: Call, route: Route, sent: Payload, first: Reply) -> Reply:
        """The answer of a route that gives no 202, but ends the job when a poll's time is over: asked anew, with all the time there is."""
        await first.close()
        log.info("%s does not poll for %s; it is asked in one piece", route.provider.name, route.upstream)
        if len(self._patient) >= MOST_PATIENT:
            self._patient.clear()
        self._patient.add((route.provider.name, route.upstream))
        return await self._invoked(call, route, sent)

    async def _queued(self, call: Call, route: Route, sent: Payload) -> Reply:
        plain = replace(call, stream=False)  # the queue's own answers are never streams
        held = resume.hold(route, "fal")

        async def ask(method: str, url: str, data: bytes | None = None, to: falqueue.To = "queue") -> Reply:
            asked = Payload(url, None if data is None else JSON, data)
            said = headers(plain, route, asked) if to == "queue" else {"accept-encoding": "identity"}
            if data is not None:
                said |= falqueue.starting(route.provider)
            session = self._cautious() if to == "public file" else self._session
            longest = falqueue.ANSWER_S if to == "queue" and data is None else None
            return await self._asked(plain, route, asked, said, method=method, session=session, total_s=longest)

        async def known(handle: falqueue.Handle) -> None:
            if held is not None:
                await held.keep("fal", handle.id, {name: getattr(handle, name) for name in falqueue.ADDRESSES})

        taken = None if held is None or held.handle is None else falqueue.followed(route, held.handle.id, held.handle.urls)
        if taken is None:
            if held is not None:
                await held.drop("its addresses are not the provider's any more")
            sent = await inline.fitted(sent, route, self._fetch)
        job = falqueue.Job(ask, call, route, self._clock, self._sleep, time.time(), known, taken)
        left = False
        try:
            async with resume.settling(held) as settled:
                try:
                    return await settled(await job.finished(sent))
                except asyncio.CancelledError:
                    left = held is not None and held.detached
                    raise
        finally:
            if job.abandoned and not left:  # whoever waited for it is gone: nobody waits for the cancelling either
                task = asyncio.create_task(job.cancel())
                self._cancelling.add(task)
                task.add_done_callback(self._cancelling.discard)

    def _cautious(self) -> aiohttp.ClientSession:
        """For links in results: connects to no address but one that was checked."""
        if self._public is None:
            self._public = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=5, resolver=_Checked(), use_dns_cache=False))
        return self._public

    async def _asked(
        self,
        call: Call,
        route: Route,
        sent: Payload,
        said: Mapping[str, str],
        *,
        method: str | None = None,
        session: aiohttp.ClientSession | None = None,
        total_s: float | None = None,
    ) -> Reply:
        method = method or ("GET" if sent.data is None else "POST")
        longest = route.provider.timeout_s if total_s is None else min(total_s, route.provider.timeout_s)
        wait = aiohttp.ClientTimeout(
            total=None if call.stream else longest, sock_connect=route.provider.connect_s, sock_read=route.provider.idle_s
        )
        try:
            response = await (session or self._session).request(
                method, sent.url, data=_sent(sent.data), headers=said, timeout=wait, allow_redirects=False
            )
        except TimeoutError:
            raise DeadlineExceeded(f"{route.provider.name} did not answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"{route.provider.name} cannot be reached: {error.os_error.strerror}") from None
        except aiohttp.ClientError as error:
            raise _broken(route, f"broke the connection before answering: {type(error).__name__}", "connection_error") from None

        async def close() -> None:
            response.close()

        key = said.get("x-api-key") or said.get("authorization", "").partition(" ")[2]
        key = key if len(key) >= SHORTEST_KEY else ""
        kept = {name: text.replace(key, "*" * len(key)) if key else text for name, text in _kept(response, route).items()}
        if sent.answered_as is not None and response.status == 200:
            kept["content-type"] = sent.answered_as
        return Reply(response.status, kept, _chunks(response, route, key.encode()), close, route, changes=sent.changes)

    async def close(self) -> None:
        """Send what is left to be cancelled, then close every connection."""
        if self._cancelling:
            await asyncio.gather(*self._cancelling, return_exceptions=True)
        await self._session.close()
        if self._public is not None:
            await self._public.close()


class _Checked(AbstractResolver):
    """Names to addresses that may be called on somebody's behalf. Raises AddressRefused."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=found,
                port=port,
                family=socket.AF_INET6 if ":" in found else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for found in await egress.check(host, port, ())
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=2**20)


def headers(call: Call, route: Route, sent: Payload) -> dict[str, str]:
    """The headers of the upstream call, the key revealed here and nowhere else."""
    plain = JSON if route.modality not in ("speech", "transcribe") else "*/*"
    theirs = route.dialect == "anthropic"
    said = {
        **{name: text for name, text in call.headers.items() if theirs or not name.startswith("anthropic-")},
        "accept": "text/event-stream" if call.stream else plain,
        "accept-encoding": "identity",
        "user-agent": f"sensorium/{__version__}",
        "x-request-id": call.id,
    }
    if call.attempt is not None and route.provider.local:
        said |= {"x-sensorium-request": call.attempt[0], "x-sensorium-attempt": str(call.attempt[1])}
    if sent.media is not None:
        said["content-type"] = sent.media
    if sent.data is not None:
        said["content-length"] = str(len(sent.data))
    key = route.provider.credential.reveal()
    if theirs:
        said = {"anthropic-version": anthropic.VERSION, **said} | ({"x-api-key": key} if key else {})
    elif key:
        said["authorization"] = f"{'Key' if route.dialect == 'fal' else 'Bearer'} {key}"
    return said


def _sent(data: bytes | None) -> bytes | AsyncIterator[bytes | memoryview] | None:
    """A body as it is, a large one in pieces: whole, what the socket does not take at once would be copied."""
    return data if data is None or len(data) <= PIECE else _pieces(data)


async def _pieces(data: bytes) -> AsyncIterator[bytes | memoryview]:
    view = memoryview(data)
    for at in range(0, len(data), PIECE):
        yield view[at : at + PIECE]


def _kept(response: aiohttp.ClientResponse, route: Route) -> dict[str, str]:
    more = (*(nvcf.KEPT if nvcf.spoken(route) else ()), *((NEEDS_RETRY,) if response.status >= 400 else ()))
    lowered = {name.lower(): text for name, text in response.headers.items()}
    kept = {name: text for name, text in lowered.items() if name in (*KEPT, *more) or name.startswith(KEPT_PREFIXES)}
    theirs = next((lowered[name] for name in UPSTREAM_IDS if name in lowered), None)
    if theirs is not None:
        kept["x-upstream-request-id"] = theirs
    return kept


async def _chunks(response: aiohttp.ClientResponse, route: Route, key: bytes) -> AsyncIterator[bytes]:
    """The body as it comes, save that the key, which a service may repeat when it complains, is starred out in its own length."""
    try:
        async for chunk in response.content.iter_any():
            yield chunk.replace(key, b"*" * len(key)) if key else chunk
    except TimeoutError:
        raise DeadlineExceeded(f"{route.provider.name} stopped sending in the middle of its reply") from None
    except aiohttp.ClientError as error:
        raise _broken(route, f"broke off in the middle of its reply: {type(error).__name__}", "server_error") from None


def _broken(route: Route, how: str, cause: Cause) -> UpstreamFailed:
    """The error of a broken connection. That of an engine on this machine breaks when its process ends."""
    error = UpstreamFailed(f"{route.provider.name} {how}")
    error.cause = "death" if route.provider.local else cause
    return error
