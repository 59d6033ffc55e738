"""The only HTTP client for model traffic: one call to one route, the reply streamed as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from sensorium import __version__
from sensorium.errors import DeadlineExceeded, Unavailable, UpstreamFailed
from sensorium.routing.call import Call, Reply, Route
from sensorium.wire import jsonbody, nvidia_models

CONNECT_S = 10.0
KEPT = (
    *("content-type", "content-length", "content-encoding", "cache-control", "x-accel-buffering"),
    *("retry-after", "nvcf-reqid", "nvcf-status", "x-sensorium-caption", "x-sensorium-ignored", "x-sensorium-scope"),
)
KEPT_PREFIX = "x-ratelimit-"


class Upstream:
    """Holds the connection pool. Open it once per process; `close` when the hub stops."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**20,
        )

    async def send(self, call: Call, route: Route) -> Reply:
        """Send the call; return as soon as the status and headers are there. Redirects are not followed.

        Raises Unavailable when nobody answers at the address or the key is missing, UpstreamFailed when the connection
        breaks before the reply, DeadlineExceeded when it takes too long.
        """
        wait = aiohttp.ClientTimeout(
            total=None if call.stream else route.provider.timeout_s, sock_connect=CONNECT_S, sock_read=route.provider.idle_s
        )
        try:
            response = await self._session.post(
                url(call, route), data=body(call, route), headers=headers(call, route), timeout=wait, allow_redirects=False
            )
        except TimeoutError:
            raise DeadlineExceeded(f"{route.provider.name} did not answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"{route.provider.name} cannot be reached: {error.os_error.strerror}") from None
        except aiohttp.ClientError as error:
            raise UpstreamFailed(f"{route.provider.name} broke the connection before answering: {type(error).__name__}") from None

        async def close() -> None:
            response.close()

        return Reply(response.status, _kept(response), _chunks(response, route), close, route)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def url(call: Call, route: Route) -> str:
    """Where this route answers this call."""
    if route.dialect == "openai":
        return f"{route.provider.base_url}/{call.operation}"
    return f"{route.provider.base_url}/{'genai/' if route.provider.local else ''}{route.upstream}"


def body(call: Call, route: Route) -> bytes:
    """What this route is sent: the caller's members, with the model by the provider's own name.

    A stand-in has other defaults than the model it stands for, so that model's are written out.
    """
    if route.dialect == "openai":
        return jsonbody.encode(call.members, model=route.upstream)
    members = nvidia_models.explicit(route.id, call.members) if route.stand_in else call.members
    return jsonbody.encode(members)


def headers(call: Call, route: Route) -> dict[str, str]:
    """The headers of the upstream call, the key revealed here and nowhere else."""
    sent = {
        "content-type": "application/json",
        "accept": "text/event-stream" if call.stream else "application/json",
        "accept-encoding": "identity",
        "user-agent": f"sensorium/{__version__}",
        "x-request-id": call.id,
    }
    key = route.provider.credential.reveal()
    if key:
        sent["authorization"] = f"Bearer {key}"
    return sent


def _kept(response: aiohttp.ClientResponse) -> dict[str, str]:
    lowered = {name.lower(): text for name, text in response.headers.items()}
    kept = {name: text for name, text in lowered.items() if name in KEPT or name.startswith(KEPT_PREFIX)}
    if "x-request-id" in lowered:
        kept["x-upstream-request-id"] = lowered["x-request-id"]
    return kept


async def _chunks(response: aiohttp.ClientResponse, route: Route) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError:
        raise DeadlineExceeded(f"{route.provider.name} stopped sending in the middle of its reply") from None
    except aiohttp.ClientError as error:
        raise UpstreamFailed(f"{route.provider.name} broke off in the middle of its reply: {type(error).__name__}") from None
