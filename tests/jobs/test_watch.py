"""What somebody looks at, in memory: never older than what was seen, never somebody else's, never without bound."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.jobs import watch
from sensorium.jobs.request import Request, Rules, State, UnknownRequest
from sensorium.jobs.watch import Watch

ROW = Request(
    *(1, "id", "do", "an/app", "", "lane", "a", 0, 0.0, {}, Rules(), State.QUEUED, 0, 0, 0),
    *(None, {}, None, None, 0, 0.0, None, None, None, None, False),
)


class Disk:
    """What is on disk, and how often it was asked."""

    def __init__(self) -> None:
        self.rows, self.asked = {"id": ROW}, 0
        self.watch = Watch(self.read)

    def read(self, caller: str | None, id: str) -> Request:
        self.asked += 1
        if id not in self.rows or caller not in (None, self.rows[id].caller):
            raise UnknownRequest(id)
        return self.rows[id]


@given(st.lists(st.tuples(st.sampled_from(["put", "look", "forget"]), st.integers(0, 9)), max_size=30))
def test_no_look_shows_less_than_one_before(verbs: list[tuple[str, int]]) -> None:
    """Whatever order the news come in; the disk is as new as the newest of them."""
    disk, seen = Disk(), 0
    for verb, ver in verbs:
        if verb == "put":
            disk.rows["id"] = replace(ROW, ver=max(ver, disk.rows["id"].ver))
            disk.watch.put(replace(ROW, ver=ver))
        elif verb == "forget":
            disk.watch.forget("id")
        else:
            now = disk.watch.of("a", "id").ver
            assert now >= seen
            seen = now


def test_what_does_not_change_costs_no_look_at_the_disk() -> None:
    disk = Disk()
    for _ in range(50):
        disk.watch.of("a", "id")
    assert disk.asked == 1


def test_somebody_elses_is_not_there_though_it_is_known() -> None:
    disk = Disk()
    disk.watch.of("a", "id")
    with pytest.raises(UnknownRequest):
        disk.watch.of("b", "id")
    assert disk.watch.of(None, "id") is ROW


def test_no_more_are_known_than_may_be() -> None:
    disk = Disk()
    with mock.patch.object(watch, "MOST", 10):
        for number in range(100):
            disk.rows[str(number)] = replace(ROW, id=str(number))
            disk.watch.of("a", str(number))
    assert list(disk.watch._known) == [str(number) for number in range(90, 100)]


def test_all_who_wait_are_woken_and_forgotten() -> None:
    async def does() -> None:
        disk, woken = Disk(), list[int]()

        async def waits(number: int) -> None:
            with disk.watch.change("id") as event:
                await event.wait()
                woken.append(number)

        tasks = [asyncio.create_task(waits(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks.pop().cancel()
        await asyncio.sleep(0)
        assert len(disk.watch._events) == 1
        disk.watch.put(replace(ROW, ver=1))
        with disk.watch.change("id") as next_:
            await asyncio.gather(*tasks)
            assert not next_.is_set() and len(disk.watch._events) == 1
        assert (sorted(woken), disk.watch._events) == ([0, 1, 2, 3], {})

    asyncio.run(does())


def test_news_of_what_is_gone_do_not_bring_it_back() -> None:
    disk = Disk()
    disk.watch.of("a", "id")
    disk.rows.clear()
    disk.watch.forget("id")
    disk.watch.put(replace(ROW, ver=5))
    with pytest.raises(UnknownRequest):
        disk.watch.of("a", "id")
