"""Waiting for a provider's limit: fair between callers, in order within one, bounded, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.routing.call import Route
from sensorium.routing.health import Admission, Closed, Health
from sensorium.routing.turns import QUEUE_FULL, Turns
from sensorium.wire.failure import Failure
from tests.routing import virtual_time
from tests.routing.hosted import chat, provider
from tests.routing.virtual_time import now


def at(per_minute: float | None = 60.0, queue: int = 10_000, model: str = "good") -> Route:
    """A route that lets one call through a second."""
    return chat(model, replace(provider("http://one"), per_minute=per_minute, burst=1, queue=queue))


class Waiting:
    """Calls that wait at their turns; `served` names them in the order in which they went, with the second."""

    def __init__(self) -> None:
        self.health = Health(now)
        self.turns = Turns(self.health, asyncio.sleep)
        self.served: list[tuple[str, float]] = []
        self.refused: list[str] = []

    async def call(self, caller: str, route: Route, name: str = "", patience: float | None = None) -> Admission | Closed | None:
        turn = self.turns.enter(caller, route)
        if isinstance(turn, Closed):
            try:
                async with asyncio.timeout(patience):
                    turn = await self.turns.wait(caller, route)
            except TimeoutError:
                return None
        if isinstance(turn, Closed):
            self.refused.append(name or caller)
        else:
            turn.answered()
            self.served.append((name or caller, round(now(), 6)))
        return turn

    async def all(self, *calls: tuple[str, str], route: Route) -> None:
        async with asyncio.TaskGroup() as group:
            for caller, name in calls:
                group.create_task(self.call(caller, route, name))

    def order(self) -> str:
        return " ".join(name for name, _ in self.served)


def test_callers_take_turns_and_each_ones_calls_keep_their_order() -> None:
    async def main() -> Waiting:
        waiting = Waiting()
        await waiting.all(*[("a", f"a{n}") for n in range(4)], ("b", "b0"), ("b", "b1"), ("c", "c0"), route=at())
        return waiting

    waiting = virtual_time.run(main())
    assert waiting.order() == "a0 a1 b0 c0 a2 b1 a3"
    assert [second for _, second in waiting.served] == [0, 1, 2, 3, 4, 5, 6]


def test_a_thousand_calls_of_one_delay_anothers_first_by_one_turn() -> None:
    async def main() -> list[tuple[str, float]]:
        waiting = Waiting()
        crowd = [asyncio.ensure_future(waiting.call("crowd", at())) for _ in range(1001)]
        await asyncio.sleep(10.5)
        await waiting.call("late", at())
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        return waiting.served

    served = virtual_time.run(main())
    assert served[-3:] == [("crowd", 10), ("crowd", 11), ("late", 12)]


def test_nobody_who_comes_later_goes_in_between() -> None:
    async def main() -> str:
        waiting = Waiting()
        await waiting.call("first", at())
        waited = asyncio.ensure_future(waiting.call("waited", at()))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        loop.call_at(1.0, lambda: asyncio.ensure_future(waiting.call("newcomer", at())))
        await waited
        await asyncio.sleep(5)
        return waiting.order()

    assert virtual_time.run(main()) == "first waited newcomer"


def test_whoever_leaves_gives_the_turn_to_the_next() -> None:
    async def main() -> tuple[list[tuple[str, float]], Turns]:
        waiting = Waiting()
        await waiting.call("first", at())
        impatient = asyncio.ensure_future(waiting.call("a", at(), patience=0.5))
        cancelled = asyncio.ensure_future(waiting.call("b", at()))
        stays = asyncio.ensure_future(waiting.call("c", at()))
        await asyncio.sleep(0.2)
        cancelled.cancel()
        await asyncio.wait({impatient, cancelled, stays})
        return waiting.served, waiting.turns

    served, turns = virtual_time.run(main())
    assert served == [("first", 0), ("c", 1)]
    assert turns._lines == {}


def test_a_turn_that_comes_together_with_the_end_of_the_call_is_not_lost() -> None:
    async def main() -> list[tuple[str, float]]:
        waiting = Waiting()
        await waiting.call("first", at())
        leaving = asyncio.ensure_future(waiting.call("a", at()))
        stays = asyncio.ensure_future(waiting.call("b", at()))
        await asyncio.sleep(0)
        line = waiting.turns._lines["hosted"]
        asyncio.get_running_loop().call_at(1.0, lambda: (line.advance(), leaving.cancel()))
        await asyncio.wait({leaving, stays})
        return waiting.served

    assert virtual_time.run(main()) == [("first", 0), ("b", 1)]


def test_a_paused_model_does_not_hold_up_the_others_of_its_provider() -> None:
    paused, other = at(None, model="paused"), at(None, model="other")

    async def main() -> list[tuple[str, float]]:
        waiting = Waiting()
        refused = waiting.turns.enter("a", paused)
        assert isinstance(refused, Admission)
        refused.failed(Failure("rate_limited", 429, "slowly"), 20.0)
        async with asyncio.TaskGroup() as group:
            for caller, route in (("a", paused), ("b", paused), ("c", other)):
                group.create_task(waiting.call(caller, route))
        return waiting.served

    assert virtual_time.run(main()) == [("c", 0), ("a", 20), ("b", 20)]


def test_those_who_wait_hear_that_the_key_was_refused() -> None:
    async def main() -> Admission | Closed | None:
        waiting = Waiting()
        await waiting.call("first", at())
        waits = asyncio.ensure_future(waiting.call("a", at()))
        await asyncio.sleep(0.5)
        waiting.health._failed(at(), 0, Failure("auth", 401, "no"), None)
        return await waits

    turn = virtual_time.run(main())
    assert isinstance(turn, Closed) and turn.kind == "auth"


def test_a_full_line_refuses_whoever_has_most() -> None:
    async def main() -> tuple[list[str], str, Closed | None]:
        waiting, route = Waiting(), at(queue=4)
        await waiting.call("first", route)
        calls = [asyncio.ensure_future(waiting.call(name[0], route, name)) for name in ("a0", "a1", "a2", "a3", "a4", "b0", "a5")]
        await asyncio.sleep(0)
        told = waiting.turns.enter("c", route)
        await asyncio.gather(*calls)
        return waiting.refused, waiting.order(), told if isinstance(told, Closed) else None

    refused, order, told = virtual_time.run(main())
    assert sorted(refused) == ["a3", "a4", "a5"]
    assert order == "first a0 b0 a1 a2"
    assert told is not None and told.retry_after_s == 3.0  # after one of a, and one of b


def test_the_refusal_of_a_full_line_says_when_to_come_back() -> None:
    async def main() -> Closed:
        waiting, route = Waiting(), at(queue=1)
        await waiting.call("first", route)
        waits = asyncio.ensure_future(waiting.call("a", route))
        await asyncio.sleep(0)
        turn = await waiting.turns.wait("a", route)
        await waits
        assert isinstance(turn, Closed)
        return turn

    turn = virtual_time.run(main())
    assert (turn.code, turn.kind, turn.retry_after_s) == (QUEUE_FULL, "rate_limited", 2.0)


Arrival = tuple[float, str, float]  # second, caller, patience


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from("abcd"), st.floats(0.001, 30)), max_size=40), st.integers(1, 12))
def test_waiting_is_fair_exact_and_complete(arrivals: list[Arrival], queue: int) -> None:
    async def main() -> tuple[Waiting, int]:
        waiting, route, come = Waiting(), at(queue=queue), itertools.count()

        async def one(second: float, caller: str, patience: float) -> bool:
            await asyncio.sleep(second)
            return await waiting.call(caller, route, f"{caller}{next(come)}", patience) is None

        return waiting, sum(await asyncio.gather(*(one(*arrival) for arrival in arrivals)))

    waiting, gave_up = virtual_time.run(main())
    served = waiting.served
    assert len(served) + len(waiting.refused) + gave_up == len(arrivals)
    assert waiting.turns._lines == {}
    for (_, earlier), (_, later) in itertools.pairwise(served):
        assert later - earlier > 0.99  # never more than the rate
    for caller in "abcd":
        numbers = [int(name[1:]) for name, _ in served if name[0] == caller]
        assert numbers == sorted(numbers)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 8), min_size=1))
def test_between_two_turns_of_one_everybody_who_waits_has_had_one(load: dict[str, int]) -> None:
    async def main() -> list[str]:
        waiting = Waiting()
        await waiting.call("first", at())
        await waiting.all(*[(caller, caller) for caller, calls in load.items() for _ in range(calls)], route=at())
        return [name for name, _ in waiting.served[1:]]

    served = virtual_time.run(main())
    assert Counter(served) == load
    for turn in range(max(load.values())):
        still = [caller for caller in load if load[caller] > turn]
        assert sorted(served[: len(still)]) == sorted(still)
        served = served[len(still) :]


def test_a_wait_is_not_begun_twice_for_the_same_time() -> None:
    slept: list[float] = []

    async def main() -> None:
        health = Health(now)

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(seconds)

        turns = Turns(health, sleep)
        assert isinstance(turns.enter("a", at()), Admission)
        await asyncio.gather(*(turns.wait("a", at()) for _ in range(3)))

    virtual_time.run(main())
    assert slept == pytest.approx([1, 1, 1])
