"""An engine that ends under several calls: which of them has a death to its name, and who runs alone afterwards (jobs.md, J-15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from sensorium.errors import UpstreamFailed
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.company import Company
from tests.routing import virtual_time
from tests.routing.hosted import call, chat, provider


class Engine:
    """Answers after `works_s`; a call whose id is in `poison` ends the process after half of that. `let_go` is what it says of its ends.

    `together` is how many were there whenever a call began.
    """

    def __init__(self, *poison: str, works_s: float = 2.0, let_go: bool = False, streams: bool = False) -> None:
        self.poison, self.works_s, self.let_go, self.streams = poison, works_s, let_go, streams
        at = replace(provider("http://gpu", "gpu", local=True), own=True, fate=self.fate)
        self.route = chat("good", at)
        self.inside: dict[str, asyncio.Future[None]] = {}
        self.began: list[tuple[str, int]] = []

    def fate(self) -> Callable[[], Awaitable[bool]]:
        async def told() -> bool:
            await asyncio.sleep(0.1)
            return self.let_go

        return told

    async def send(self, call: Call, route: Route) -> Reply:
        async def nothing() -> AsyncIterator[bytes]:
            yield b"begun"
            if self.streams:
                await self._work(call.id)
            yield b"done"

        async def close() -> None:
            pass

        if not self.streams:
            await self._work(call.id)
        return Reply(200, {}, nothing(), close, route)

    async def _work(self, id: str) -> None:
        self.inside[id] = ended = asyncio.get_running_loop().create_future()
        self.began.append((id, len(self.inside)))
        try:
            await asyncio.wait({ended}, timeout=self.works_s / 2 if id in self.poison else self.works_s)
            if id in self.poison and not ended.done():
                for one in self.inside.values():
                    one.set_result(None)
            if ended.done():
                error = UpstreamFailed("the engine broke off")
                error.cause = "death"
                raise error
        finally:
            self.inside.pop(id, None)


async def ran(company: Company, engine: Engine, id: str, attempt: int = 1) -> str:
    """How a request's run ends."""
    try:
        reply = await company(replace(call(), id=id, attempt=(id, attempt)), engine.route)
        try:
            return (await reply.whole()).decode()
        finally:
            await reply.close()
    except UpstreamFailed as error:
        return error.cause or ""


def rounds(engine: Engine, ids: str, times: int) -> list[list[str]]:
    """How so many runs of each end, each round begun when the one before is over."""

    async def main() -> list[list[str]]:
        company = Company(engine.send)
        return [list(await asyncio.gather(*(ran(company, engine, id, attempt) for id in ids))) for attempt in range(1, times + 1)]

    return virtual_time.run(main())


DONE = "begundone"


def test_of_eight_only_the_one_that_dies_alone_has_a_death() -> None:
    engine = Engine("p")
    first, second = rounds(engine, "abcpdefg", 2)
    assert first == ["connection_error"] * 8
    assert second == [DONE, DONE, DONE, "death", DONE, DONE, DONE, DONE]
    assert [together for _, together in engine.began] == [1, 2, 3, 4, 5, 6, 7, 8, *[1] * 8]


def test_one_that_was_answered_alone_is_among_others_again() -> None:
    engine = Engine("p")
    rounds_of = rounds(engine, "abp", 2)
    assert rounds_of[1] == [DONE, DONE, "death"]
    engine.poison = ()

    async def main() -> list[str]:
        company = Company(engine.send)
        return list(await asyncio.gather(*(ran(company, engine, id) for id in "ab")))

    engine.began.clear()
    assert virtual_time.run(main()) == [DONE, DONE]
    assert engine.began == [("a", 1), ("b", 2)]


def test_a_stream_that_breaks_is_judged_like_an_answer() -> None:
    first, second = rounds(Engine("p", streams=True), "ap", 2)
    assert (first, second) == (["connection_error"] * 2, [DONE, "death"])


def test_alone_from_the_beginning_is_a_death_at_once() -> None:
    assert rounds(Engine("p"), "p", 2) == [["death"], ["death"]]


def test_an_engine_that_let_a_stuck_job_go_is_nobodys_fault() -> None:
    engine = Engine("p", let_go=True)
    first, second = rounds(engine, "abp", 2)
    assert first == second == ["connection_error"] * 3
    assert {together for _, together in engine.began} == {1, 2, 3}  # nobody has to run alone


def test_those_who_come_later_wait_until_a_suspect_is_through_and_a_suspect_until_they_are() -> None:
    engine = Engine("p")

    async def main() -> list[str]:
        company = Company(engine.send)
        await asyncio.gather(*(ran(company, engine, id) for id in "ap"))
        engine.began.clear()
        first = asyncio.ensure_future(ran(company, engine, "x"))
        await asyncio.sleep(0.5)
        suspect = asyncio.ensure_future(ran(company, engine, "a", 2))
        await asyncio.sleep(0.5)
        last = asyncio.ensure_future(ran(company, engine, "y"))
        return list(await asyncio.gather(first, suspect, last))

    assert virtual_time.run(main()) == [DONE] * 3
    assert engine.began == [("x", 1), ("a", 1), ("y", 1)]


def test_a_suspect_who_gives_up_waiting_stands_in_nobodys_way() -> None:
    engine = Engine("p")

    async def main() -> str:
        company = Company(engine.send)
        await asyncio.gather(*(ran(company, engine, id) for id in "ap"))
        first = asyncio.ensure_future(ran(company, engine, "x"))
        await asyncio.sleep(0.5)
        suspect = asyncio.ensure_future(ran(company, engine, "a", 2))
        await asyncio.sleep(0.5)
        last = asyncio.ensure_future(ran(company, engine, "y"))
        await asyncio.sleep(0.1)
        suspect.cancel()
        await asyncio.wait({suspect})
        await first
        return await last

    assert virtual_time.run(main()) == DONE


def test_other_routes_are_left_alone() -> None:
    engine = Engine("p")
    engine.route = replace(engine.route, provider=replace(engine.route.provider, own=False))
    assert rounds(engine, "ap", 1) == [["death", "death"]]
