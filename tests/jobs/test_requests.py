"""The queue's verbs on a real database: order, owners, late runs, what a dead hub left, and what has been kept long enough."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.jobs.again import MOST_RUNS
from sensorium.jobs.request import Made, Request, State, UnknownRequest
from sensorium.jobs.requests import BATCH, Requests, new_id
from sensorium.jobs.results import Results, input_name
from tests.jobs.queues import claimed, put, table
from tests.store.vaults import Clock

DONE = Made(b"1")


def on(folder: Path, does: Callable[[Requests], Awaitable[None]], clock: Clock | None = None) -> None:
    """Do something with the table."""

    async def beside() -> None:
        async with table(folder, clock) as requests:
            await does(requests)

    asyncio.run(beside())


async def recovered(requests: Requests) -> list[Request]:
    return await requests.recover(lambda request: None, MOST_RUNS, 1e6, ())


def test_first_come_first_served_each_once(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        made = [(await put(requests, body=b"%d" % number)).id for number in range(5)]
        first = await requests.claim([("lane", 3)])
        assert requests.standing() == (2, 3)
        second = await requests.claim([("lane", 3)])
        assert [(request.id, body) for request, body in first + second] == list(zip(made, [b"0", b"1", b"2", b"3", b"4"], strict=True))
        assert await requests.claim([("lane", 3)]) == []

    on(tmp_path, does)


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 3)), max_size=12), st.integers(1, 4), st.booleans())
@settings(max_examples=25)
def test_the_order_is_that_of_the_key(keys: list[tuple[int, int]], most: int, capped: bool) -> None:
    """By both ways of claiming: the one that looks at callers apart gives the same."""

    async def does(requests: Requests) -> None:
        made = [await put(requests, vtag=float(tag), prio=prio, caller="ab"[number % 2]) for number, (prio, tag) in enumerate(keys)]
        order = sorted((request.prio, request.vtag, request.seq) for request in made)
        found = list[Request]()
        while len(found) < len(made):
            found += [request for request, _ in await requests.claim([("lane", most)], {"nobody": 0} if capped else {})]
        assert [(request.prio, request.vtag, request.seq) for request in found] == order

    with tempfile.TemporaryDirectory() as folder:
        on(Path(folder), does)


def test_of_all_lanes_no_more_than_there_are_slots(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        for lane in ("x", "y", "z"):
            for _ in range(3):
                await put(requests, lane=lane)
        found = await requests.claim([("x", 2), ("y", 9), ("z", 9)], {}, 4)
        assert [request.lane for request, _ in sorted(found, key=lambda pair: pair[0].lane)] == ["x", "x", "y", "y"]

    on(tmp_path, does)


def test_a_late_run_cannot_overwrite(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        await put(requests)
        (early,) = await claimed(requests)
        await recovered(requests)
        (late,) = await claimed(requests)
        assert (early.attempt, late.attempt) == (1, 2)
        assert await requests.finish(early, State.SUCCEEDED, Made(b"early", told={"of": "early"})) is None
        assert await requests.delay(early, requests.now() + 9, "timeout") is None
        await requests.keep(early, {"of": "early"})
        assert (found := requests.of("a", early.id)).state is State.RUNNING and found.upstream is None
        assert await requests.finish(late, State.SUCCEEDED, Made(b"late", told={"of": "late"})) is not None
        assert await requests.finish(late, State.FAILED, Made(b"again")) is None
        done = requests.of("a", early.id)
        assert (done.state, done.told, done.done, requests.output(done.id)) == (State.SUCCEEDED, {"of": "late"}, True, b"late")

    on(tmp_path, does)


def test_what_ends_the_hub_is_not_run_for_ever(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        made = await put(requests)
        for _ in range(MOST_RUNS):
            assert len(await claimed(requests)) == 1
            await recovered(requests)
        assert await claimed(requests) == []
        found = requests.of("a", made.id)
        assert (found.state, found.told["code"]) == (State.FAILED, "runner_disconnected")

    on(tmp_path, does)


def test_a_request_that_is_to_be_cancelled_is_not_run_again(tmp_path: Path) -> None:
    """The cancel is on disk before its run fails: another run would be one that nobody wants."""

    async def does(requests: Requests) -> None:
        for ends in (lambda run: requests.delay(run, requests.now(), "death"), lambda run: recovered(requests)):
            made = await put(requests)
            (run,) = await claimed(requests)
            assert (await requests.cancel("a", made.id))[1]
            await ends(run)
            assert requests.of("a", made.id).state is State.CANCELLED
        assert await claimed(requests, 9) == []

    on(tmp_path, does)


def test_another_callers_request_is_not_there(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        made = await put(requests)
        for verb in (requests.cancel, requests.remove, requests.again):
            for caller, id in (("b", made.id), ("a", new_id(0.0))):
                with pytest.raises(UnknownRequest):
                    await verb(caller, id)
        for look in (lambda: requests.of("b", made.id), lambda: requests.listed("b", 5, made.id)):
            with pytest.raises(UnknownRequest):
                look()
        assert (requests.listed("b", 5), len(requests.listed("a", 5)), requests.of(None, made.id)) == ([], 1, made)

    on(tmp_path, does)


def test_lists_are_in_the_order_of_submission(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        made = [(await put(requests, app=f"app{number % 2}")).id for number in range(6)]
        assert [one.id for one in requests.listed("a", 3)] == made[:2:-1]
        assert [one.id for one in requests.listed("a", 9, made[3])] == made[2::-1]
        assert [one.id for one in requests.listed("a", 9, made[3], newest_first=False)] == made[4:]
        assert [one.id for one in requests.listed("a", 9, app="app1", newest_first=False)] == made[1::2]
        await claimed(requests, 2)
        assert [one.id for one in requests.listed("a", 9, states=[State.RUNNING], newest_first=False)] == made[:2]

    on(tmp_path, does)


def test_ids_sort_by_their_time() -> None:
    ids = [new_id(1_800_000_000.0 + number / 1000) for number in range(50)]
    assert sorted(ids) == ids
    assert all(id[14] == "7" and id[19] in "89ab" and len(id) == 36 for id in ids)


def test_the_sweep_at_start_asks_only_for_what_lies_there(tmp_path: Path) -> None:
    clock, results = Clock(), Results(tmp_path)

    async def does(requests: Requests) -> None:
        rows = [await put(requests) for _ in range(3)]
        (gone,) = [await requests.finish(run, State.FAILED, DONE, kept_s=5.0) for run in await claimed(requests)]
        clock.now += 6.0
        await requests.expire(1e6)
        assert gone is not None
        for name in (rows[1].id, input_name(rows[1].id), gone.id, *(f"nobody-{number}" for number in range(2 * BATCH))):
            (tmp_path / "results" / name).write_bytes(b"1")
        searcher, asked = requests._database._searcher, list[str]()
        searcher.set_trace_callback(asked.append)
        results.sweep(requests.kept)
        searcher.set_trace_callback(None)
        assert {path.name for path in (tmp_path / "results").iterdir()} == {rows[1].id, input_name(rows[1].id)}
        assert len(asked) == 3 and rows[2].id not in " ".join(asked)
        plans = [row[3] for sql in asked for row in requests._database.read(f"EXPLAIN QUERY PLAN {sql}")]
        assert plans and all(plan.startswith("SEARCH requests USING INDEX") and "(id=?)" in plan for plan in plans)

    on(tmp_path, does, clock)


def test_an_empty_folder_costs_no_query(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        await put(requests)
        asked = list[str]()
        requests._database._searcher.set_trace_callback(asked.append)
        Results(tmp_path).sweep(requests.kept)
        assert not asked

    on(tmp_path, does)


def test_results_are_whole_or_absent(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.put("one", 1, b"film")
    (tmp_path / "results" / "two.1.part").write_bytes(b"half")
    results.put("three", 1, b"unknown")
    results.put("one.in", 1, b"input")
    results.put("one.spool", 1, b"end")
    results.put("three.in", 1, b"unknown input")
    Path(os.fsdecode(bytes(tmp_path / "results") + b"/\xff\xe9")).write_bytes(b"not ours")
    asked = list[set[str]]()

    def kept(ids: Collection[str]) -> set[str]:
        asked.append(set(ids))
        return {"one"}

    results.sweep(kept)
    assert asked == [{"one", "one.spool", "two.1.part", "three"}]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["one", "one.in"]
    results.remove(["one.in"])
    assert [results.get(name) for name in ("one", "two", "three")] == [b"film", None, None]
    results.remove(["one", "never"])
    assert list((tmp_path / "results").iterdir()) == []


def test_a_spool_is_that_of_its_run_or_none(tmp_path: Path) -> None:
    results = Results(tmp_path)

    async def does(requests: Requests) -> None:
        await put(requests)
        (run,) = await claimed(requests)
        made = Made(b"film", 422, {"of": "it"}, ("one.png",))
        assert results.spooled(run) is None
        results.spool(run, made)
        assert (results.spooled(run), results.spooled(replace(run, attempt=2))) == (made, None)
        for broken in (b"", b"{", b"[1]"):
            results.put(f"{run.id}.spool", 1, broken)
            assert results.spooled(run) is None

    on(tmp_path, does)


def test_what_a_dead_hub_had_spooled_is_the_result(tmp_path: Path) -> None:
    async def does(requests: Requests) -> None:
        made = [await put(requests) for _ in range(3)]
        await claimed(requests, 3)
        spooled = {made[0].id: Made(b"film"), made[1].id: Made(b"no", 422)}
        await requests.recover(lambda request: spooled.get(request.id), MOST_RUNS, 1e6, [made[2].id])
        assert [requests.of("a", one.id).state for one in made] == [State.SUCCEEDED, State.FAILED, State.RUNNING]
        assert [requests.output(one.id) for one in made] == [b"film", b"no", None]

    on(tmp_path, does)


VERBS = ["submit", "claim", "finish", "delay", "cancel", "remove", "crash", "due", "again"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 9)), max_size=40))
def test_nothing_is_lost_and_nothing_ends_twice(verbs: list[tuple[str, int]]) -> None:
    """Against a model: what state every request must be in. Runs that were given up go on trying to end their requests."""
    clock = Clock()

    async def does(requests: Requests) -> None:
        state, runs, wanted, last = dict[str, State](), list[Request](), set[str](), dict[str, Request]()

        def pick(number: int, states: set[State]) -> str | None:
            found = [id for id in state if state[id] in states]
            return found[number % len(found)] if found else None

        for verb, number in verbs:
            if verb == "submit":
                state[(await put(requests, start_within_s=None if number % 2 else 15.0)).id] = State.QUEUED
            elif verb == "claim":
                for run in await claimed(requests, number):
                    assert state[run.id] is State.QUEUED
                    state[run.id] = State.RUNNING
                    runs.append(run)
            elif verb == "crash":
                for found in await recovered(requests):
                    assert state[found.id] is State.RUNNING
                    expected = State.CANCELLED if found.id in wanted else State.FAILED if found.runs >= MOST_RUNS else State.QUEUED
                    assert found.state is expected
                    state[found.id] = found.state
                assert State.RUNNING not in state.values()
            elif verb == "due":
                clock.now += number
                ready, late = await requests.due(None)
                for found in ready + late:
                    assert state[found.id] in (State.QUEUED, State.DELAYED)
                    state[found.id] = found.state
            elif verb == "remove" and (id := pick(number, set(State))):
                await requests.remove("a", id)
                del state[id]
            elif verb == "again" and (id := pick(number, {State.FAILED, State.CANCELLED})):
                state[id] = (await requests.again("a", id)).state
                wanted.discard(id)
            elif verb == "cancel" and (id := pick(number, set(State))):
                found, asked = await requests.cancel("a", id)
                assert asked is (state[id] < State.SUCCEEDED)
                if asked and state[id] is State.RUNNING:
                    wanted.add(id)
                elif asked:
                    state[id] = State.CANCELLED
            elif verb in ("finish", "delay") and runs:
                run = runs[number % len(runs)]
                counts = state.get(run.id) is State.RUNNING and max(one.attempt for one in runs if one.id == run.id) == run.attempt
                if verb == "finish":
                    over = await requests.finish(run, State.SUCCEEDED, DONE)
                else:
                    over = await requests.delay(run, clock.now + number, "timeout")
                    assert over is None or (over.state is State.CANCELLED) == (run.id in wanted)
                assert (over is not None) == counts
                if over is not None:
                    state[run.id] = over.state
            for id in state:
                found = requests.of("a", id)
                before = last.get(id, found)
                assert (found.state, found.ver >= before.ver, found.attempt >= before.attempt) == (state[id], True, True)
                last[id] = found
        assert requests.kept({*state, "never"}) == set(state)
        counts_ = tuple(sum(one in which for one in state.values()) for which in ((State.QUEUED, State.DELAYED), (State.RUNNING,)))
        assert requests.standing() == counts_

    with tempfile.TemporaryDirectory() as folder:
        on(Path(folder), does, clock)
