"""Walking the plan: who is asked next, who is asked twice, and that every call leaves one record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sensorium.errors import DeadlineExceeded, Unavailable, Unprocessable, UpstreamFailed
from sensorium.routing.call import Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch
from tests.routing.hosted import call, chat, provider


class Transport:
    """Answers with the next of `outcomes`: an error to raise, or the chunks of a reply (an error among them breaks it off)."""

    def __init__(self, *outcomes: Exception | list[bytes | Exception]) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[str] = []
        self.closed = 0

    async def send(self, call: Call, route: Route) -> Reply:
        self.asked.append(route.provider.name)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in outcome:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk

        async def close() -> None:
            self.closed += 1

        return Reply(200, {}, chunks(), close, route)


ONE, TWO = chat("good", provider("http://one", "one")), chat("good", provider("http://two", "two"))
ENGINE = chat("good", provider("http://engine", "engine", local=True))


def dispatched(transport: Transport, *routes: Route, read: int | None = None) -> tuple[bytes, list[Record]]:
    records: list[Record] = []
    clock = iter(range(100))

    async def main() -> bytes:
        reply = await Dispatch(Catalog(routes), transport.send, records.append, lambda: next(clock))(call())
        got = []
        try:
            async for chunk in reply.chunks:
                got.append(chunk)
                if len(got) == read:
                    break
        finally:
            await reply.close()
            await reply.close()
        return b"".join(got)

    return asyncio.run(main()), records


def test_an_answer_is_passed_on_and_recorded_once() -> None:
    transport = Transport([b"ab", b"c"])
    body, records = dispatched(transport, ONE, TWO)
    assert (body, transport.asked, transport.closed) == (b"abc", ["one"], 1)
    assert [(r.outcome, r.bytes_out, r.first_byte_s, r.total_s) for r in records] == [("answered", 3, 1, 2)]


def test_an_unreachable_provider_is_passed_over() -> None:
    transport = Transport(Unavailable("down"), [b"x"])
    body, records = dispatched(transport, ONE, TWO)
    assert (body, transport.asked) == (b"x", ["one", "two"])
    assert [r.outcome for r in records] == ["failed", "answered"]


def test_a_lost_engine_is_asked_again_but_a_hosted_provider_is_not() -> None:
    transport = Transport(UpstreamFailed("gone"), [b"x"])
    assert dispatched(transport, ENGINE)[0] == b"x"
    assert transport.asked == ["engine", "engine"]
    with pytest.raises(UpstreamFailed):
        dispatched(Transport(UpstreamFailed("gone"), [b"x"]), ONE)


def test_a_provider_that_is_known_to_be_down_is_not_asked() -> None:
    transport = Transport([b"x"])
    down = chat("good", replace(provider("http://engine", "engine"), down=lambda: "no weights"))
    assert dispatched(transport, down, TWO)[0] == b"x"
    assert transport.asked == ["two"]
    with pytest.raises(Unavailable, match="engine cannot answer: no weights"):
        dispatched(Transport(), down)


def test_the_last_error_is_the_answer_when_nobody_is_there() -> None:
    with pytest.raises(Unavailable, match="two is down"):
        dispatched(Transport(Unavailable("one is down"), Unavailable("two is down")), ONE, TWO)


def test_a_caller_who_leaves_before_the_reply_is_recorded() -> None:
    records: list[Record] = []

    async def never(call: Call, route: Route) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        asking = asyncio.ensure_future(Dispatch(Catalog([ONE]), never, records.append, lambda: 0.0)(call()))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(main())
    assert [(r.outcome, r.status) for r in records] == [("client_closed", 499)]


def test_a_slow_provider_is_passed_over_and_a_refusal_is_not() -> None:
    assert dispatched(Transport(DeadlineExceeded("slow"), [b"x"]), ONE, TWO)[0] == b"x"
    with pytest.raises(Unprocessable):
        dispatched(Transport(Unprocessable("no"), [b"x"]), ONE, TWO)


def test_a_stream_that_was_read_to_its_end_mark_is_answered() -> None:
    transport = Transport([b"data: 1\n\n", b"data: [DONE]\n\n", b""])
    assert [r.outcome for r in dispatched(transport, ONE, read=2)[1]] == ["answered"]


def test_no_failover_after_the_first_byte() -> None:
    transport = Transport([b"a", UpstreamFailed("cut")], [b"whole"])
    with pytest.raises(UpstreamFailed, match="cut"):
        dispatched(transport, ONE, TWO)
    assert transport.asked == ["one"]
    assert transport.closed == 1


def test_a_caller_who_leaves_is_recorded_as_such() -> None:
    transport = Transport([b"a", b"b"])
    assert [r.outcome for r in dispatched(transport, ONE, read=1)[1]] == ["client_closed"]
    assert transport.closed == 1
