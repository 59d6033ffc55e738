"""How many requests may run: of a lane, of a caller, in all; and that what cannot begin takes nobody's place."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.jobs.lanes import Lanes
from sensorium.jobs.request import Made, State
from sensorium.jobs.requests import Requests
from sensorium.jobs.run import Run
from tests.jobs.queues import ASKED, Gate, counted, put, queue, stored, table, until

LIMITS = {"one": 1, "two": 2, "ten": 10}


def lanes(at_once: int = 100, most: dict[str, int] | None = None) -> Lanes:
    return Lanes(at_once, lambda lane: LIMITS[lane], most or {}, lambda lane: lane != "down")


def test_a_lane_has_room_for_what_is_free() -> None:
    found = lanes()
    for lane in LIMITS:
        found.came(lane, "a", 5)
    assert dict(found.free(0.0)) == {"one": 1, "two": 2, "ten": 5}
    found.running["two"] += 1
    assert dict(found.free(0.0)) == {"one": 1, "two": 1, "ten": 5}
    assert found.slots == 99


def test_every_lane_is_the_first_in_its_turn() -> None:
    found = lanes(at_once=1)
    for lane in LIMITS:
        found.came(lane, "a")
    assert {found.free(0.0)[0][0] for _ in range(3)} == set(LIMITS)
    found.running["one"] += 1
    assert (found.slots, found.free(0.0)) == (0, [])


def test_a_lane_that_cools_or_is_not_there_waits() -> None:
    found = lanes()
    found.came("two", "a", 2)
    found.came("down", "a")
    found.cool("two", 10.0)
    found.cool("two", 5.0)
    assert (found.free(9.9), found.free(10.0), found.unready()) == ([], [("two", 2)], ["down"])


def test_what_has_gone_leaves_no_trace() -> None:
    found = lanes()
    for count in (2, -1, -1):
        found.came("two", "a", count)
    assert (found.waiting, found.waiting_of) == ({}, {})


def test_what_is_delayed_takes_no_slot_of_what_is_not(tmp_path: Path) -> None:
    """With one slot in all, whichever lane's turn it is."""

    async def does() -> None:
        async with table(tmp_path) as requests:
            found = Lanes(1, lambda lane: 1)
            slow = await put(requests, lane="slow")
            ((running, _),) = await requests.claim([("slow", 1)])
            await requests.delay(running, requests.now() + 60, "timeout")
            found.came("slow", "a")
            found.came("quick", "a")
            for _ in range(2):
                await put(requests, lane="quick")
                ((next_, _),) = await requests.claim(found.free(requests.now()), {}, found.slots)
                assert next_.lane == "quick"
            assert requests.of("a", slow.id).state is State.DELAYED

    asyncio.run(does())


@pytest.mark.parametrize("at_once", [3, 100])
def test_never_more_than_may(tmp_path: Path, at_once: int) -> None:
    """J-09 in one process: 120 requests of three callers in three lanes, one caller with at most two."""
    most, running, gate = dict[str, int](), dict[str, int](), Gate()

    async def work(run: Run) -> Made:
        request = run.request
        for key in (request.lane, f"caller {request.caller}", "all"):
            running[key] = running.get(key, 0) + 1
            most[key] = max(most.get(key, 0), running[key])
        await asyncio.sleep(0.0005)
        for key in (request.lane, f"caller {request.caller}", "all"):
            running[key] -= 1
        return await gate(run)

    async def does() -> None:
        gate.open.set()
        async with queue(tmp_path, work, lanes=lanes(at_once, {"b": 2})) as jobs:
            await asyncio.gather(
                *(jobs.submit(replace(ASKED, lane=lane, caller=caller)) for _ in range(14) for lane in LIMITS for caller in "abc")
            )
            await until(lambda: len(gate.began) == 126 and counted(jobs) == ({}, {}, {}) == stored(jobs))

    asyncio.run(does())
    assert all(most[lane] <= limit for lane, limit in LIMITS.items())
    assert (most["caller b"] <= 2, most["all"] <= at_once) == (True, True)


@pytest.mark.parametrize("others", [10, 5000])
def test_what_waits_of_a_capped_caller_is_never_scanned(tmp_path: Path, others: int) -> None:
    """J-11, by the steps of the database's machine instead of the clock."""

    async def does() -> int:
        async with table(tmp_path) as requests:
            await asyncio.gather(*(put(requests, caller="a", vtag=float(number)) for number in range(others)))
            await put(requests, caller="b", vtag=1e6)
            return await steps(requests)

    async def steps(requests: Requests) -> int:
        taken, connection = [0], requests._database._writer

        def step() -> int:
            taken[0] += 1
            return 0

        await requests._writer.do(lambda db: connection.set_progress_handler(step, 1))
        ((claimed, _),) = await requests.claim([("lane", 4)], {"a": 0})
        await requests._writer.do(lambda db: connection.set_progress_handler(None, 1))
        assert claimed.caller == "b"
        return taken[0]

    assert asyncio.run(does()) < 1500


def test_no_question_of_every_moment_scans_the_table(tmp_path: Path) -> None:
    """Claims, places, deadlines and what is shown of the queue go by an index: no step of them reads all rows."""
    order = "ORDER BY prio, vtag, seq LIMIT 4"
    asked = [
        f"SELECT seq FROM requests WHERE lane = 'x' AND state = 0 {order}",
        f"SELECT prio, vtag, seq FROM requests WHERE lane = 'x' AND caller = 'a' AND state = 0 {order}",
        "SELECT min(caller) FROM requests WHERE lane = 'x' AND state = 0 AND caller > 'a'",
        "SELECT 1 FROM requests WHERE state = 2 AND not_before <= 1",
        "SELECT 1 FROM requests WHERE state IN (0, 2) AND start_deadline <= 1",
        "SELECT 1 FROM requests WHERE state = 0 AND prio > 0 AND created_at <= 1",
        "SELECT seq FROM requests WHERE state > 2 AND payload_gone = 0 AND payload_expires_at <= 1 LIMIT 5",
        "SELECT id FROM requests WHERE payload_gone = 1 AND finished_at <= 1 LIMIT 5",
        "SELECT seq FROM requests WHERE state = 1",
        *(f"SELECT count(*) FROM requests WHERE state = {state}" for state in (0, 1, 2)),
        "SELECT request FROM request_logs WHERE at <= 1 LIMIT 5",
        "SELECT seq FROM requests WHERE caller = 'a' AND app = 'b' AND idem_key = 'c'",
    ]

    async def does() -> list[str]:
        async with table(tmp_path) as requests:
            return [f"{sql}: {row[3]}" for sql in asked for row in requests._database.read(f"EXPLAIN QUERY PLAN {sql}")]

    plans = asyncio.run(does())
    assert not [plan for plan in plans if ("SCAN" in plan.rsplit(": ", 1)[1] and "USING" not in plan) or "TEMP B-TREE" in plan]
