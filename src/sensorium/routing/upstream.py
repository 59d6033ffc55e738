"""The only HTTP client for model traffic: one call to one route, the reply streamed as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import aiohttp

from sensorium import __version__
from sensorium.errors import DeadlineExceeded, Unavailable, UpstreamFailed
from sensorium.exchange import JSON, PIECE
from sensorium.routing import nvcf
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.payload import Payload, payload

CONNECT_S = 10.0
SHORTEST_KEY = 12  # characters of a key that is starred out of answers; a shorter one may occur in any bytes by chance
KEPT = (
    *("content-type", "content-length", "content-encoding", "cache-control", "x-accel-buffering"),
    *("retry-after", "nvcf-reqid", "nvcf-status", "x-sensorium-caption", "x-sensorium-ignored", "x-sensorium-scope"),
)
KEPT_PREFIX = "x-ratelimit-"


class Upstream:
    """Holds the connection pool. Open it once per process; `close` when the hub stops. `clock` and `sleep` are for polling, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**20,
        )

    async def send(self, call: Call, route: Route) -> Reply:
        """Send the call; return as soon as the status and headers are there. Redirects are not followed.

        Where a job of NVIDIA's outlives its first answer, that is its result's (`nvcf`).
        Raises Unavailable when nobody answers at the address or the key is missing, UpstreamFailed when the connection
        breaks before the reply, DeadlineExceeded when it takes too long, and what `payload` raises.
        """
        sent = payload(call, route)
        if not nvcf.spoken(route):
            return await self._asked(call, route, sent, headers(call, route, sent))
        patience = nvcf.Patience.of(route.provider, self._clock())
        first = await self._asked(call, route, sent, headers(call, route, sent) | patience.polling(self._clock()))

        async def get(url: str, poll: Mapping[str, str] | None) -> Reply:
            asked = Payload(url, None, None)
            said = {"accept-encoding": "identity"} if poll is None else {**headers(call, route, asked), **poll}
            return await self._asked(call, route, asked, said)

        return await nvcf.Job(get, self._clock, self._sleep, patience).finished(first)

    async def _asked(self, call: Call, route: Route, sent: Payload, said: Mapping[str, str]) -> Reply:
        wait = aiohttp.ClientTimeout(
            total=None if call.stream else route.provider.timeout_s, sock_connect=CONNECT_S, sock_read=route.provider.idle_s
        )
        try:
            response = await self._session.request(
                "GET" if sent.data is None else "POST", sent.url, data=_sent(sent.data), headers=said, timeout=wait, allow_redirects=False
            )
        except TimeoutError:
            raise DeadlineExceeded(f"{route.provider.name} did not answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"{route.provider.name} cannot be reached: {error.os_error.strerror}") from None
        except aiohttp.ClientError as error:
            raise UpstreamFailed(f"{route.provider.name} broke the connection before answering: {type(error).__name__}") from None

        async def close() -> None:
            response.close()

        key = said.get("authorization", "").removeprefix("Bearer ")
        key = key if len(key) >= SHORTEST_KEY else ""
        kept = {name: text.replace(key, "*" * len(key)) if key else text for name, text in _kept(response, route).items()}
        if sent.answered_as is not None and response.status == 200:
            kept["content-type"] = sent.answered_as
        return Reply(response.status, kept, _chunks(response, route, key.encode()), close, route, changes=sent.changes)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def headers(call: Call, route: Route, sent: Payload) -> dict[str, str]:
    """The headers of the upstream call, the key revealed here and nowhere else."""
    plain = JSON if route.modality not in ("speech", "transcribe") else "*/*"
    said = {
        "accept": "text/event-stream" if call.stream else plain,
        "accept-encoding": "identity",
        "user-agent": f"sensorium/{__version__}",
        "x-request-id": call.id,
    }
    if sent.media is not None:
        said["content-type"] = sent.media
    if sent.data is not None:
        said["content-length"] = str(len(sent.data))
    key = route.provider.credential.reveal()
    if key:
        said["authorization"] = f"Bearer {key}"
    return said


def _sent(data: bytes | None) -> bytes | AsyncIterator[bytes | memoryview] | None:
    """A body as it is, a large one in pieces: whole, what the socket does not take at once would be copied."""
    return data if data is None or len(data) <= PIECE else _pieces(data)


async def _pieces(data: bytes) -> AsyncIterator[bytes | memoryview]:
    view = memoryview(data)
    for at in range(0, len(data), PIECE):
        yield view[at : at + PIECE]


def _kept(response: aiohttp.ClientResponse, route: Route) -> dict[str, str]:
    more = nvcf.KEPT if nvcf.spoken(route) else ()
    lowered = {name.lower(): text for name, text in response.headers.items()}
    kept = {name: text for name, text in lowered.items() if name in (*KEPT, *more) or name.startswith(KEPT_PREFIX)}
    if "x-request-id" in lowered:
        kept["x-upstream-request-id"] = lowered["x-request-id"]
    return kept


async def _chunks(response: aiohttp.ClientResponse, route: Route, key: bytes) -> AsyncIterator[bytes]:
    """The body as it comes, save that the key, which a service may repeat when it complains, is starred out in its own length."""
    try:
        async for chunk in response.content.iter_any():
            yield chunk.replace(key, b"*" * len(key)) if key else chunk
    except TimeoutError:
        raise DeadlineExceeded(f"{route.provider.name} stopped sending in the middle of its reply") from None
    except aiohttp.ClientError as error:
        raise UpstreamFailed(f"{route.provider.name} broke off in the middle of its reply: {type(error).__name__}") from None
