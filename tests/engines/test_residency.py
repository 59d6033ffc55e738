"""Models that take turns, with loads and unloads that end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sensorium.engines.residency import Entry, Residency
from sensorium.errors import SensoriumError, SettingsError, Unavailable

GB = 10**9


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """A model whose loads and unloads wait for `open`. What happens is written to `story`."""

    def __init__(self, name: str, size: int, story: list[str], *, real: int | None = None, pinned: bool = False) -> None:
        self.story, self.real = story, size if real is None else real
        self.failing: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.entry = Entry(name, size, self.load, self.unload, pinned=pinned)

    async def load(self) -> tuple[str, int]:
        self.story.append(f"load {self.entry.name}")
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        return f"the model {self.entry.name}", self.real

    async def unload(self, model: str) -> None:
        assert model == f"the model {self.entry.name}"
        await self.gate.wait()
        self.story.append(f"unload {self.entry.name}")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Holder:
    """A caller that holds a model until `leave`."""

    def __init__(self, residency: Residency, name: str) -> None:
        self.got: str | None = None
        self.name, self._leave = name, asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._hold(residency, name))

    async def _hold(self, residency: Residency, name: str) -> None:
        async with residency.held(name) as model:
            self.got = model
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await settle()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_a_model_is_loaded_once_for_callers_who_come_together() -> None:
    async def body() -> None:
        story: list[str] = []
        a = Model("a", 4, story)
        a.gate.clear()
        residency = Residency(10, [a.entry], Clock())
        callers = [Holder(residency, "a") for _ in range(3)]
        await settle()
        assert [one.got for one in callers] == [None] * 3
        a.gate.set()
        await settle()
        assert [one.got for one in callers] == ["the model a"] * 3
        assert story == ["load a"]
        for one in callers:
            await one.leave()
        assert (residency.used_bytes, a.entry.state) == (4, "in")  # it stays until somebody needs the room

    run(body)


def test_the_least_recently_used_idle_model_goes() -> None:
    async def body() -> None:
        story: list[str] = []
        clock = Clock()
        models = [Model(name, 4, story) for name in "abc"]
        residency = Residency(8, [one.entry for one in models], clock)
        for name in "aba":
            clock.now += 1
            async with residency.held(name):
                pass
        async with residency.held("c"):
            assert story == ["load a", "load b", "unload b", "load c"]
            assert residency.used_bytes == 8

    run(body)


def test_a_model_in_use_stays_and_the_caller_waits_for_it() -> None:
    async def body() -> None:
        story: list[str] = []
        a, b = Model("a", 6, story), Model("b", 6, story)
        residency = Residency(8, [a.entry, b.entry], Clock())
        first = Holder(residency, "a")
        await settle()
        second = Holder(residency, "b")
        await settle()
        assert (second.got, story) == (None, ["load a"])
        await first.leave()
        assert (second.got, story) == ("the model b", ["load a", "unload a", "load b"])
        await second.leave()

    run(body)


def test_a_pinned_model_stays() -> None:
    async def body() -> None:
        story: list[str] = []
        models = [Model("p", 3, story, pinned=True), Model("a", 5, story), Model("b", 5, story)]
        residency = Residency(8, [one.entry for one in models], Clock())
        for name in "pab":
            async with residency.held(name):
                pass
        assert story == ["load p", "load a", "unload a", "load b"]

    run(body)


def test_whoever_waits_too_long_is_let_in_before_new_users_of_what_is_in_the_way() -> None:
    async def body() -> None:
        clock, story = Clock(), list[str]()
        a, b = Model("a", 6, story), Model("b", 6, story)
        residency = Residency(8, [a.entry, b.entry], clock, patience_s=5)
        holders = [Holder(residency, "a")]
        await settle()
        other = Holder(residency, "b")
        await settle()
        clock.now = 4.9
        holders.append(Holder(residency, "a"))
        await settle()
        assert holders[1].got is not None  # b waits, but has not waited for long
        clock.now = 5.0
        late = Holder(residency, "a")
        await settle()
        await holders[0].leave()
        await holders[1].leave()
        assert (late.got, other.got) == (None, "the model b")
        await other.leave()
        assert late.got == "the model a"
        await late.leave()

    run(body)


def test_a_model_that_makes_way_for_nobody_is_not_held_back() -> None:
    async def body() -> None:
        clock, story = Clock(), list[str]()
        models = [Model("a", 6, story), Model("b", 6, story), Model("small", 1, story)]
        residency = Residency(8, [one.entry for one in models], clock, patience_s=0)
        async with residency.held("small"):
            pass
        clock.now = 1
        first = Holder(residency, "a")
        await settle()
        second = Holder(residency, "b")
        await settle()
        clock.now = 60
        async with asyncio.timeout(1), residency.held("small"):
            assert second.got is None
        await first.leave()
        await second.leave()
        assert "unload small" not in story

    run(body)


def test_a_load_that_fails_is_the_error_of_those_who_waited_for_it_and_others_go_on() -> None:
    async def body() -> None:
        story: list[str] = []
        a, b = Model("a", 6, story), Model("b", 6, story)
        a.failing = Unavailable("the disk is gone")
        residency = Residency(8, [a.entry, b.entry], Clock())
        callers = [Holder(residency, "a"), Holder(residency, "a"), Holder(residency, "b")]
        await settle()
        for one in callers[:2]:
            with pytest.raises(Unavailable, match="the disk is gone"):
                await one.task
        assert callers[2].got == "the model b"
        await callers[2].leave()
        a.failing = None
        async with residency.held("a") as model:
            assert model == "the model a"

    run(body)


@pytest.mark.parametrize("when", ["waiting", "loading", "served"])
def test_a_caller_who_goes_away_leaves_no_trace(when: str) -> None:
    async def body() -> None:
        story: list[str] = []
        a, b = Model("a", 6, story), Model("b", 6, story)
        residency = Residency(8, [a.entry, b.entry], Clock())
        blocking = Holder(residency, "b") if when == "waiting" else None
        await settle()
        if when == "loading":
            a.gate.clear()
        caller = Holder(residency, "a")
        if when != "served":
            await settle()
        else:
            while not a.entry.users:  # it is its user now, and does not know yet
                await asyncio.sleep(0)
        caller.task.cancel()
        await settle()
        assert caller.task.cancelled()
        a.gate.set()
        if blocking is not None:
            await blocking.leave()
        await settle()
        assert a.entry.users == 0
        async with asyncio.timeout(1), residency.held("b"):
            pass

    run(body)


def test_what_can_never_fit_is_told_at_the_start_with_its_bytes() -> None:
    story: list[str] = []

    async def body() -> None:
        models = [Model("p", 3 * GB, story, pinned=True), Model("a", 6 * GB, story), Model("b", 9 * GB, story)]
        with pytest.raises(SettingsError) as caught:
            Residency(8 * GB, [one.entry for one in models], Clock())
        assert len(caught.value.problems) == 2
        assert "6000000000" in caught.value.problems[0] and "3000000000" in caught.value.problems[0]
        assert "9000000000" in caught.value.problems[1] and "8000000000" in caught.value.problems[1]

    run(body)


def test_a_model_larger_than_was_estimated_waits_for_its_real_room() -> None:
    async def body() -> None:
        story: list[str] = []
        a, b = Model("a", 4, story), Model("b", 4, story, real=6)
        residency = Residency(8, [a.entry, b.entry], Clock())
        first = Holder(residency, "a")
        await settle()
        second = Holder(residency, "b")
        await settle()
        assert (second.got, residency.used_bytes) == (None, 4)
        await first.leave()
        assert (second.got, residency.used_bytes) == ("the model b", 6)
        await second.leave()

    run(body)


def test_a_model_that_turns_out_too_large_for_the_device_is_an_error_with_its_bytes() -> None:
    async def body() -> None:
        a = Model("a", 4, [], real=9)
        residency = Residency(8, [a.entry], Clock())
        with pytest.raises(Unavailable, match="9 bytes") as caught:
            async with residency.held("a"):
                pass
        assert (caught.value.code, residency.used_bytes) == ("out_of_memory", 0)

    run(body)


def test_closing_unloads_everything() -> None:
    async def body() -> None:
        story: list[str] = []
        models = [Model(name, 4, story) for name in "ab"]
        residency = Residency(8, [one.entry for one in models], Clock())
        for name in "ab":
            async with residency.held(name):
                pass
        await residency.close()
        assert story[2:] == ["unload a", "unload b"]
        assert residency.used_bytes == 0

    run(body)


SIZES: Final = {"a": 5, "b": 5, "c": 3, "d": 2, "pinned": 2}


class Turns(RuleBasedStateMachine):
    """Callers come, leave and go away in any order, loads and unloads end when they like, some fail.

    Always: the budget is kept, models in use and pinned ones are there. In the end everybody is served, in bounded time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.models: dict[str, Model] = {}
        self.holders: list[Holder] = []
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.models = {name: Model(name, size, [], pinned=name == "pinned") for name, size in SIZES.items()}
        self.residency = Residency(8, [one.entry for one in self.models.values()], self.clock, patience_s=3)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        async def worked() -> None:
            await work
            await settle()

        self.loop.run_until_complete(worked())

    @rule(name=st.sampled_from(sorted(SIZES)))
    def come(self, name: str) -> None:
        async def work() -> None:
            self.holders.append(Holder(self.residency, name))

        self.do(work())

    @precondition(lambda self: any(one.got for one in self.holders))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from([one for one in self.holders if one.got]))
        self.holders.remove(one)
        self.do(one.leave())

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.holders))
        self.holders.remove(one)
        one.task.cancel()
        self.do(settle())

    @rule(name=st.sampled_from(sorted(SIZES)), slow=st.booleans())
    def pace(self, name: str, slow: bool) -> None:
        gate = self.models[name].gate
        gate.clear() if slow else gate.set()
        self.do(settle())

    @rule(name=st.sampled_from(sorted(SIZES)), fails=st.booleans())
    def trouble(self, name: str, fails: bool) -> None:
        self.models[name].failing = Unavailable("no luck") if fails else None

    @rule()
    def wait(self) -> None:
        self.clock.now += 2

    @invariant()
    def the_budget_is_kept_and_nothing_is_taken_from_its_users(self) -> None:
        self.holders = [one for one in self.holders if not self._failed(one)]
        there = {name for name, one in self.models.items() if one.entry.state != "out"}
        assert sum(SIZES[name] for name in there) <= 8
        for one in self.holders:
            if one.got:
                entry = self.models[one.name].entry
                assert (entry.state, entry.model) == ("in", one.got)
        for name, model in self.models.items():
            assert model.entry.users == sum(one.got is not None and one.name == name for one in self.holders)
        if self.models["pinned"].entry.measured:
            assert self.models["pinned"].entry.state == "in"

    def _failed(self, one: Holder) -> bool:
        return one.task.done() and isinstance(one.task.exception(), SensoriumError)

    def teardown(self) -> None:
        for model in self.models.values():
            model.failing = None
            model.gate.set()
        self.do(settle())
        rounds = 0
        while self.holders:
            rounds += 1
            assert rounds < 100, f"never served: {[one.name for one in self.holders if not one.got]}"
            self.clock.now += 1
            for one in [one for one in self.holders if one.got]:
                self.holders.remove(one)
                self.do(one.leave())
        self.do(self.residency.close())
        assert self.residency.used_bytes == 0
        self.loop.close()


Turns.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestTurns = Turns.TestCase


def test_nobody_starves_beside_a_model_that_is_always_in_use() -> None:
    """Two models are kept busy by callers who overlap for ever; the third, which needs the room of one of them, still gets its turn."""

    async def body() -> None:
        clock = Clock()
        models = [Model(name, 4, []) for name in "abc"]
        residency = Residency(8, [one.entry for one in models], clock, patience_s=3)
        busy = [Holder(residency, name) for name in "aabb"]
        await settle()
        waiting = Holder(residency, "c")
        for number in range(40):
            clock.now += 1
            busy.append(Holder(residency, "ab"[number % 2]))
            await settle()
            served = [one for one in busy if one.got]
            if served:
                busy.remove(served[0])
                await served[0].leave()
            if waiting.got:
                break
        assert waiting.got == "the model c"
        for one in busy:
            one.task.cancel()
        await waiting.leave()
        await settle()

    run(body)
