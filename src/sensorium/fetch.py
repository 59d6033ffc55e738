"""A picture that a caller names by its URL. Each address is checked, at every redirect, and only a checked one is connected to."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from sensorium import egress
from sensorium.errors import AddressRefused, BadRequest

if TYPE_CHECKING:
    import aiohttp

BYTE_CAP = 32 * 1024 * 1024
WAIT_S = 10.0
REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)


async def fetch(url: str, allow: Collection[str] = (), resolve: egress.Resolve | None = None) -> bytes:
    """The bytes behind `url`. Redirects are followed by hand, at most REDIRECTS of them.

    `allow` is the operator's list of private "host:port". Raises AddressRefused for what may not be called, BadRequest for what did not
    come: an error status, more than BYTE_CAP bytes, nobody there, nothing within WAIT_S.
    """
    try:
        async with asyncio.timeout(WAIT_S):
            return await _followed(url, allow, resolve)
    except TimeoutError:
        raise BadRequest(f"the picture was not delivered within {WAIT_S:g} seconds") from None


async def _followed(url: str, allow: Collection[str], resolve: egress.Resolve | None) -> bytes:
    for _ in range(REDIRECTS + 1):
        target = egress.target(url)
        addresses = await egress.check(target.host, target.port, allow, resolve)
        found = await _get(target, addresses)
        if isinstance(found, bytes):
            return found
        try:
            url = urljoin(target.url, found)
        except ValueError:
            raise AddressRefused(f"{target.host} redirects to something that is not a proper URL") from None
    raise BadRequest(f"the picture's address redirects more than {REDIRECTS} times")


async def _get(target: egress.Target, addresses: list[str]) -> bytes | str:
    """The body of one URL, or where it redirects to. The addresses are tried in order."""
    # Start-up cost: a quarter of a second and ten megabytes, for something that most engines never do.
    import aiohttp

    headers = {"host": target.netloc, "user-agent": "sensorium"}
    headers |= {"accept": "image/*, */*;q=0.5", "accept-encoding": "identity"}
    failure = ""
    for address in addresses:
        jar, connector = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(force_close=True)
        session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False)
        try:
            async with (
                session,
                session.get(target.at(address), headers=headers, allow_redirects=False, server_hostname=target.host) as response,
            ):
                return await _answer(response, target.host)
        except aiohttp.ClientConnectorError as error:
            failure = type(error).__name__
        except aiohttp.ClientError as error:
            failure = type(error).__name__
            break
    raise BadRequest(f"the picture could not be fetched from {target.host}: {failure}")


async def _answer(response: aiohttp.ClientResponse, host: str) -> bytes | str:
    if response.status in _MOVED and "location" in response.headers:
        return response.headers["location"]
    if response.status != 200:
        raise BadRequest(f"{host} answered with HTTP {response.status} instead of a picture")
    if (response.content_length or 0) > BYTE_CAP:
        raise BadRequest(f"the picture has {response.content_length} bytes; at most {BYTE_CAP} are fetched")
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > BYTE_CAP:
            raise BadRequest(f"the picture has more than {BYTE_CAP} bytes, which is all that is fetched")
    return bytes(data)
