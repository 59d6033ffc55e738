"""The queue as doors see it, when something else than the work fails: a full disk, a caller who left, a run that does not let go."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sensorium.errors import Busy
from sensorium.jobs import runner
from sensorium.jobs.dispatcher import Jobs, failure
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Policy
from sensorium.jobs.request import Made, NotRepeatable, State, UnknownRequest
from sensorium.jobs.results import input_name
from sensorium.jobs.run import Run
from sensorium.store.database import StoreUnavailable
from tests.jobs.queues import ASKED, Failed, Gate, Told, answered, counted, failing, placed, queue, stored, unkept, until
from tests.store.vaults import Clock

FULL = OSError(28, "No space left on device")
LONG = b'"' + b"x" * 70_000 + b'"'


def over(folder: Path, does: Callable[[Jobs], Awaitable[None]], *given: Any, **named: Any) -> None:
    """Do something beside a queue that runs."""

    async def beside() -> None:
        async with queue(folder, *given, **named) as jobs:
            await does(jobs)

    asyncio.run(beside())


@pytest.mark.parametrize("body", [b'{"short": 1}', LONG])
def test_what_is_asked_for_comes_back(tmp_path: Path, body: bytes) -> None:
    async def does(jobs: Jobs) -> None:
        made, replayed = await jobs.submit(replace(ASKED, body=body))
        ended = await jobs.ended(made)
        assert (replayed, ended.state, ended.attempt, await jobs.output(ended)) == (False, State.SUCCEEDED, 1, body)
        await jobs.remove("a", made.id)
        with pytest.raises(UnknownRequest):
            await jobs.of("a", made.id)
        assert list((tmp_path / "results").iterdir()) == []

    over(tmp_path, does)


def test_a_result_that_cannot_be_kept_ends_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()

    async def makes(run: Run) -> Made:
        return Made(LONG, files=("one.png",))

    async def does(jobs: Jobs) -> None:
        monkeypatch.setattr(jobs.results, "put", failing(jobs.results.put, FULL))
        ended = await jobs.ended((await jobs.submit(ASKED))[0])
        assert (ended.state, failure(ended).status, told.discarded) == (State.FAILED, 500, ["one.png"])
        assert (await jobs.ended((await jobs.submit(ASKED))[0])).state is State.SUCCEEDED

    over(tmp_path, does, makes, told=told)


def test_a_disk_that_is_full_keeps_no_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def does(jobs: Jobs) -> None:
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr("os.fsync", failing(lambda descriptor: None, FULL))
            await asyncio.to_thread(jobs.results.put, "some", 1, LONG)
        assert list((tmp_path / "results").iterdir()) == []

    over(tmp_path, does)


def test_an_end_that_cannot_be_written_yet_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def logs(run: Run) -> Made:
        run.log("one")
        return Made(b"1")

    async def does(jobs: Jobs) -> None:
        monkeypatch.setattr(jobs.requests, "finish", failing(jobs.requests.finish, *[StoreUnavailable("full")] * 3))
        ended = await jobs.ended((await jobs.submit(ASKED))[0])
        await until(lambda: not jobs._runner.running)
        assert (ended.state, [line.message for line in await jobs.lines(ended)]) == (State.SUCCEEDED, ["one"])

    over(tmp_path, does, logs)


def test_a_retry_that_cannot_be_written_yet_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(run: Run) -> Made:
        if run.request.attempt == 1:
            raise Failed("death")
        return Made(b"1")

    async def does(jobs: Jobs) -> None:
        monkeypatch.setattr(jobs.requests, "delay", failing(jobs.requests.delay, *[StoreUnavailable("full")] * 3))
        ended = await jobs.ended((await jobs.submit(ASKED))[0])
        await until(lambda: not jobs._runner.running)
        assert (ended.state, [(line.attempt, line.number) for line in await jobs.lines(ended)]) == (State.SUCCEEDED, [(1, 1)])

    over(tmp_path, does, fails)


def test_files_of_a_result_stay_when_its_spool_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()

    async def makes(run: Run) -> Made:
        return Made(LONG, files=("one.png",))

    async def does(jobs: Jobs) -> None:
        monkeypatch.setattr(jobs.results, "unspool", failing(jobs.results.unspool, OSError(5, "Input/output error")))
        ended = await jobs.ended((await jobs.submit(ASKED))[0])
        await until(lambda: not jobs._runner.running)
        assert (ended.state, await jobs.output(ended), told.discarded) == (State.SUCCEEDED, LONG, [])

    over(tmp_path, does, makes, told=told)


def test_a_long_input_that_cannot_be_kept_is_refused_and_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def does(jobs: Jobs) -> None:
        monkeypatch.setattr(jobs.results, "put", failing(jobs.results.put, FULL))
        monkeypatch.setattr(jobs.results, "remove", failing(jobs.results.remove, OSError(30, "Read-only file system")))
        with pytest.raises(StoreUnavailable, match="No space"):
            await jobs.submit(replace(ASKED, body=LONG))
        assert counted(jobs) == stored(jobs) == ({}, {}, {})
        assert (await jobs.ended((await jobs.submit(replace(ASKED, body=LONG)))[0])).state is State.SUCCEEDED

    over(tmp_path, does)


def test_a_result_that_cannot_be_read_now_is_no_fault_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def does(jobs: Jobs) -> None:
        ended = await jobs.ended((await jobs.submit(ASKED))[0])
        monkeypatch.setattr(jobs.requests, "output", lambda id: None)
        monkeypatch.setattr(jobs.results, "get", failing(jobs.results.get, *[OSError(5, "Input/output error")] * 2))
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            await jobs.output(ended)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            jobs.kept_output(ended.id)

    over(tmp_path, does)


@pytest.mark.parametrize("method", ["recover", "kept", "waiting", "keys"])
@pytest.mark.parametrize("error", [StoreUnavailable("locked"), OSError(13, "Permission denied"), ValueError("a row that cannot be read")])
def test_the_queue_starts_when_the_disk_can_be_used(tmp_path: Path, method: str, error: Exception) -> None:
    async def waits(jobs: Jobs) -> None:
        await jobs.submit(ASKED)

    over(tmp_path, waits, lanes=Lanes(0, lambda lane: 0))

    def prepare(jobs: Jobs) -> None:
        setattr(jobs.requests, method, failing(getattr(jobs.requests, method), error, error))

    async def does(jobs: Jobs) -> None:
        assert (await jobs.ended((await jobs.submit(ASKED))[0])).state is State.SUCCEEDED
        await until(lambda: stored(jobs) == ({}, {}, {}) == counted(jobs))

    over(tmp_path, does, prepare=prepare)


def test_whoever_leaves_while_submitting_has_submitted(tmp_path: Path) -> None:
    """A connection that breaks cancels its handler: the request is on disk all the same, and must run."""

    async def does(jobs: Jobs) -> None:
        await until(jobs._runner.ready.is_set)
        submitting = [asyncio.create_task(jobs.submit(replace(ASKED, body=LONG if number % 2 else b"1"))) for number in range(20)]
        for number, task in enumerate(submitting):
            for _ in range(number % 7):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*submitting, return_exceptions=True)
        await until(lambda: stored(jobs) == ({}, {}, {}) == counted(jobs))
        assert {found.state for found in await jobs.listed("a", 100)} <= {State.SUCCEEDED}

    over(tmp_path, does)


def test_whoever_leaves_while_cancelling_has_cancelled(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        made = [(await jobs.submit(ASKED))[0] for _ in range(6)]
        for verb in (jobs.cancel, jobs.remove):
            tasks = [asyncio.create_task(verb("a", made.pop().id)) for _ in range(3)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: stored(jobs) == ({}, {}, {}) == counted(jobs))

    over(tmp_path, does, lanes=Lanes(0, lambda lane: 0))


def test_as_many_wait_as_may(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        asked = [replace(ASKED, caller=caller) for caller in "ab" for _ in range(10)]
        came = await asyncio.gather(*(jobs.submit(one) for one in asked), return_exceptions=True)
        assert [isinstance(one, Busy) for one in came] == [False] * 3 + [True] * 7 + [False] * 5 + [True] * 5
        assert counted(jobs) == ({"lane": 8}, {"a": 3, "b": 5}, {}) == stored(jobs)
        with pytest.raises(Busy):
            await jobs.submit(replace(ASKED, caller="c"))

    policy = Policy(most_waiting=8, most_waiting_of={"a": 3})
    over(tmp_path, does, lanes=Lanes(0, lambda lane: 0), policy=policy)


def test_a_repeated_submission_is_answered_however_many_wait(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        asked = replace(ASKED, idempotency_key="k", body=LONG)
        made, _ = await jobs.submit(asked)
        again, replayed = await jobs.submit(asked)
        assert (again.id, replayed) == (made.id, True)
        assert [file.name for file in (tmp_path / "results").iterdir()] == [input_name(made.id)]

    over(tmp_path, does, lanes=Lanes(0, lambda lane: 0), policy=Policy(most_waiting=1))


def test_a_run_that_does_not_let_go_does_not_hold_its_request(tmp_path: Path) -> None:
    """Its late result counts for nothing, and neither does what it says; only then may the request be run again."""
    gate, told = asyncio.Event(), Told()

    async def holds_on(run: Run) -> Made:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                run.log("never")
        run.log("too late")
        return Made(LONG, files=("one.png",))

    async def does(jobs: Jobs) -> None:
        made, _ = await jobs.submit(ASKED)
        await until(lambda: made.id in jobs._runner.running)
        await asyncio.sleep(0.01)
        assert await jobs.cancel("a", made.id) and await jobs.cancel("a", made.id)
        ended = await jobs.ended(made)
        assert (ended.state, await jobs.cancel("a", made.id)) == (State.CANCELLED, False)
        with pytest.raises(NotRepeatable, match="let go"):
            await jobs.retry("a", made.id)
        gate.set()
        await until(lambda: not jobs._runner.running)
        assert (await jobs.of("a", made.id), told.discarded) == (replace(ended, logged=0), ["one.png"])
        assert list((tmp_path / "results").iterdir()) == []
        assert [line.message for line in await jobs.lines(ended)] in ([], ["never"])
        assert counted(jobs) == ({}, {}, {})
        assert (await jobs.ended(await jobs.retry("a", made.id))).state is State.SUCCEEDED

    with mock.patch.object(runner, "CANCEL_S", 0.05):
        over(tmp_path, does, holds_on, told=told)


def test_a_hub_stops_although_a_run_does_not_let_go(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def holds_on(run: Run) -> Made:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return Made(b"1")

    async def beside() -> None:
        async with queue(tmp_path, holds_on) as jobs:
            await jobs.submit(ASKED)
            await until(lambda: bool(jobs._runner.running))
            await asyncio.sleep(0.01)
            ((_, task),) = jobs._runner.running.values()
        gate.set()
        await asyncio.wait({task})
        async with queue(tmp_path) as jobs:
            (found,) = await jobs.listed("a", 5)
            assert (await jobs.ended(found)).state is State.SUCCEEDED

    with mock.patch.object(runner, "CANCEL_S", 0.05):
        asyncio.run(beside())


def test_work_that_cancels_itself_is_not_run_for_ever(tmp_path: Path) -> None:
    runs = list[int]()

    async def gives_up(run: Run) -> Made:
        runs.append(run.request.attempt)
        raise asyncio.CancelledError

    async def does(jobs: Jobs) -> None:
        ended = await jobs.ended((await jobs.submit(ASKED))[0])
        assert (ended.state, ended.status, runs) == (State.FAILED, 500, [1])

    over(tmp_path, does, gives_up)


@pytest.mark.parametrize(
    ("error", "kind"), [(TimeoutError(), "internal_error"), (None, "request_timeout"), (KeyError("no"), "internal_error")]
)
def test_only_a_run_over_its_time_timed_out(tmp_path: Path, error: Exception | None, kind: str) -> None:
    async def does_so(run: Run) -> Made:
        if error is not None:
            raise error
        await asyncio.Event().wait()
        raise AssertionError

    async def does(jobs: Jobs) -> None:
        rules = replace(ASKED.rules, run_s=0.02, no_retry=True)
        ended = await jobs.ended((await jobs.submit(replace(ASKED, rules=rules)))[0])
        assert (ended.state, ended.told["error_type"]) == (State.FAILED, kind)

    over(tmp_path, does, does_so)


def test_a_request_whose_input_is_gone_fails(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        (tmp_path / "results" / input_name((await jobs.submit(replace(ASKED, body=LONG)))[0].id)).unlink()

    over(tmp_path, does, lanes=Lanes(0, lambda lane: 0))

    async def looks(jobs: Jobs) -> None:
        ended = await jobs.ended((await jobs.listed("a", 1))[0])
        assert (ended.state, "gone" in ended.told["error"]) == (State.FAILED, True)

    over(tmp_path, looks)


def test_what_is_not_to_be_kept_cannot_be_run_again(tmp_path: Path) -> None:
    async def fails(run: Run) -> Made:
        raise Failed("final")

    async def does(jobs: Jobs) -> None:
        kept, gone = [await jobs.ended((await jobs.submit(asked))[0]) for asked in (ASKED, unkept())]
        assert (await jobs.retry("a", kept.id)).state is State.QUEUED
        with pytest.raises(NotRepeatable):
            await jobs.retry("a", gone.id)

    over(tmp_path, does, fails)


def test_whoever_waits_for_a_removed_request_is_told(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        for gate_opens in (False, True):
            made, _ = await jobs.submit(replace(ASKED, lane="x" if gate_opens else "lane"))
            waiting = asyncio.create_task(jobs.ended(made))
            if gate_opens:
                await gate.came.wait()
            await asyncio.sleep(0)
            await jobs.remove("a", made.id)
            with pytest.raises(UnknownRequest):
                await waiting
        assert jobs._watch._events == {}

    gate = Gate()
    over(tmp_path, does, gate, lanes=Lanes(4, lambda lane: 4 if lane == "x" else 0))


def test_nobody_who_waited_in_vain_is_remembered(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        made, _ = await jobs.submit(ASKED)
        ended = await jobs.ended(made)
        for request in (ended, ended):
            assert await jobs.changed(request, 0.0) == ended
        both = [asyncio.create_task(jobs.changed(ended, seconds)) for seconds in (0.005, 0.01)]
        await asyncio.gather(*both)
        assert jobs._watch._events == {}

    over(tmp_path, does)


def test_a_run_nobody_knows_of_is_found(tmp_path: Path) -> None:
    """Where a row says that it runs and nothing does, the slow tick takes it up, and its slot is free."""
    clock, told = Clock(), Told()

    async def does(jobs: Jobs) -> None:
        lost = [(await jobs.submit(replace(ASKED, webhook_url="http://there/"))) for _ in range(2)]
        await jobs.requests.claim([("lane", 2)])
        jobs._runner.lanes.came("lane", "a", -2)
        assert await jobs.cancel("a", lost[0][0].id)
        limit[0] = 4
        clock.now += 31.0
        ended = [await jobs.ended(request) for request, _ in lost]
        assert [one.state for one in ended] == [State.CANCELLED, State.SUCCEEDED]
        await until(lambda: counted(jobs) == ({}, {}, {}) == stored(jobs))
        assert sorted(one.id for one in told.ended) == sorted(one.id for one in ended)

    limit = [0]
    over(tmp_path, does, lanes=Lanes(4, lambda lane: limit[0]), clock=clock, told=told)


def test_counts_equal_the_rows_whatever_happens(tmp_path: Path) -> None:
    chance, clock = random.Random(7), Clock()

    async def work(run: Run) -> Made:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            raise Failed(chance.choice(["death", "busy", "final", "timeout", "server_error"]))
        return Made(LONG if chance.random() < 0.1 else b"1")

    async def one(jobs: Jobs, number: int) -> None:
        caller, lane = chance.choice("ab"), chance.choice("xyz")
        asked = replace(ASKED, caller=caller, lane=lane, prio=number % 2, start_within_s=chance.choice([None, 20.0]))
        made, _ = await jobs.submit(asked)
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        try:
            match chance.randrange(6):
                case 0 | 1:
                    await jobs.cancel(caller, made.id)
                case 2:
                    await jobs.remove(caller, made.id)
                case 3:
                    await asyncio.wait({asyncio.create_task(jobs.cancel(caller, made.id))}, timeout=0)
                case 4:
                    clock.now += 7.0
                    await jobs.retry(caller, made.id)
        except NotRepeatable:
            pass

    async def does(jobs: Jobs) -> None:
        for _ in range(8):
            await asyncio.gather(*(one(jobs, number) for number in range(40)))
            await until(lambda: placed(jobs) == stored(jobs)[0])
            clock.now += chance.choice([1.0, 9.0, 31.0])
        while stored(jobs)[0] or stored(jobs)[2]:
            clock.now += 61.0
            await asyncio.sleep(0.005)
        await until(lambda: counted(jobs) == ({}, {}, {}) == stored(jobs) and not jobs._runner.running)
        assert placed(jobs) == {}
        assert all(found.done for found in await jobs.listed(None, 1000))

    over(tmp_path, does, work, lanes=Lanes(3, lambda lane: 2, {"a": 2}), clock=clock, policy=Policy(low_max_wait_s=10.0))


def test_an_unknown_kind_of_work_fails(tmp_path: Path) -> None:
    async def does(jobs: Jobs) -> None:
        assert (await jobs.ended((await jobs.submit(replace(ASKED, work="other")))[0])).state is State.FAILED

    over(tmp_path, does, answered)


def test_what_fails_beside_the_queue_is_told_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unheard = list[Any]()

    def prepare(jobs: Jobs) -> None:
        jobs.requests.expire = failing(jobs.requests.expire, StoreUnavailable("locked"))  # type: ignore[method-assign]

    async def does(jobs: Jobs) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        assert (await jobs.ended((await jobs.submit(ASKED))[0])).state is State.SUCCEEDED
        await until(lambda: not jobs._runner._beside)
        gc.collect()

    over(tmp_path, does, prepare=prepare)
    assert unheard == []
    assert "locked" in caplog.text


def test_a_run_that_fails_at_once_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    """The next run of a request may be claimed in the very transaction in which the one before it ends."""

    async def dies_once(run: Run) -> Made:
        if run.request.attempt == 1:
            raise Failed("death")
        return Made(b"1")

    async def does(jobs: Jobs) -> None:
        made = [jobs.submit(replace(ASKED, lane=lane)) for _ in range(100) for lane in "xyz"]
        for request, _ in await asyncio.gather(*made):
            assert (await jobs.ended(request)).state is State.SUCCEEDED
        await until(lambda: not jobs._runner.running)
        assert counted(jobs) == ({}, {}, {}) == stored(jobs)

    over(tmp_path, does, dies_once, lanes=Lanes(9, lambda lane: 4))
