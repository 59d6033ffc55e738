"""Calls are counted from their sending until their reply is closed, or until there will be none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sensorium.errors import UpstreamFailed
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.under_way import UnderWay
from tests.routing.hosted import call, chat, image, provider

AT = provider("http://one")
ROUTE, OPEN = chat("good", AT), chat("*", AT)


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def test_a_call_counts_until_its_reply_is_closed() -> None:
    closed: list[str] = []

    async def send(_: Call, route: Route) -> Reply:
        async def close() -> None:
            closed.append(route.id)

        return Reply(200, {}, nothing(), close, route)

    async def main() -> None:
        counted = UnderWay(send)
        one, two = await counted(call(), ROUTE), await counted(call(), ROUTE)
        assert (counted.on(ROUTE), counted.on(OPEN), counted.on(image("good", AT))) == (2, 2, 0)
        await one.close()
        await one.close()
        assert counted.on(ROUTE) == 1
        await two.close()
        assert (counted.on(ROUTE), counted.on(OPEN), closed) == (0, 0, ["good"] * 3)

    asyncio.run(main())


def test_a_call_without_a_reply_counts_no_longer() -> None:
    async def send(_: Call, route: Route) -> Reply:
        raise UpstreamFailed("gone")

    async def main() -> None:
        counted = UnderWay(send)
        with pytest.raises(UpstreamFailed):
            await counted(call(), ROUTE)
        assert counted.on(ROUTE) == 0

    asyncio.run(main())
