"""The lane with jobs that wait for a word from the test; nothing here sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from sensorium.engines.lane import Cancelling, Lane
from sensorium.errors import Busy, Cancelled, DeadlineExceeded, DeviceLost, Unavailable, Unprocessable

PATIENCE = 10.0


class Job:
    """Says when it has begun, and goes on when told to."""

    def __init__(self, result: object = "done") -> None:
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.result, self.saw_cancel = result, False

    def __call__(self, cancelled: Cancelling) -> object:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        self.saw_cancel = cancelled()
        self.ended.set()
        if self.saw_cancel:
            raise Cancelled("told to stop")
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def reached(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 2 * PATIENCE))


def counts(lane: Lane) -> tuple[int, int, int, int]:
    found = lane.counters
    return found.running, found.waiting, found.finished, found.cancelled


async def idle(lane: Lane) -> None:
    """Until the lane has dealt with everything before."""
    await lane.run(lambda cancelled: None)


def test_a_result_comes_back_and_is_counted() -> None:
    async def test() -> None:
        lane, job = Lane("cpu"), Job(7)
        task = asyncio.create_task(lane.run(job))
        await reached(job.begun)
        assert counts(lane) == (1, 0, 0, 0)
        job.go.set()
        assert await task == 7
        await idle(lane)
        assert counts(lane)[2:] == (2, 0)
        lane.close()

    run(test())


def test_jobs_run_one_at_a_time_in_order() -> None:
    async def test() -> None:
        lane, order = Lane("cpu"), []
        first = Job()
        tasks = [asyncio.create_task(lane.run(first))]
        await reached(first.begun)
        tasks += [asyncio.create_task(lane.run(lambda cancelled, n=n: order.append(n))) for n in range(5)]
        await asyncio.sleep(0)
        assert counts(lane)[:2] == (1, 5)
        assert order == []
        first.go.set()
        await asyncio.gather(*tasks)
        assert order == list(range(5))

    run(test())


def test_a_full_queue_refuses_with_a_time() -> None:
    async def test() -> None:
        lane, first, second = Lane("cpu", limit=1), Job(), Job()
        running = asyncio.create_task(lane.run(first))
        await reached(first.begun)
        waiting = asyncio.create_task(lane.run(second))
        await asyncio.sleep(0)
        with pytest.raises(Busy) as caught:
            await lane.run(Job())
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        assert lane.counters.refused == 1
        first.go.set()
        second.go.set()
        assert await asyncio.gather(running, waiting) == ["done", "done"]

    run(test())


def test_an_error_reaches_its_caller_and_the_lane_lives_on() -> None:
    async def test() -> None:
        lane = Lane("cpu")
        for error in (Unprocessable("no", param="steps"), ZeroDivisionError("a bug")):
            job = Job(error)
            job.go.set()
            with pytest.raises(type(error)) as caught:
                await lane.run(job)
            assert caught.value is error
        await idle(lane)
        assert (lane.counters.failed, lane.counters.finished) == (2, 1)

    run(test())


def test_leaving_while_running_sets_the_flag() -> None:
    async def test() -> None:
        lane, job = Lane("cpu"), Job()
        task = asyncio.create_task(lane.run(job))
        await reached(job.begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        job.go.set()
        await reached(job.ended)
        assert job.saw_cancel
        await idle(lane)
        assert counts(lane) == (0, 0, 1, 1)

    run(test())


def test_leaving_while_waiting_never_begins_the_job() -> None:
    async def test() -> None:
        lane, first, second = Lane("cpu"), Job(), Job()
        running = asyncio.create_task(lane.run(first))
        await reached(first.begun)
        waiting = asyncio.create_task(lane.run(second))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert counts(lane) == (1, 0, 0, 1)
        first.go.set()
        assert await running == "done"
        await idle(lane)
        assert not second.begun.is_set()

    run(test())


def test_the_deadline_counts_from_the_call_and_stops_the_job() -> None:
    async def test() -> None:
        lane, running, waiting = Lane("cpu"), Job(), Job()
        first = asyncio.create_task(lane.run(running, deadline_s=0.05))
        await reached(running.begun)
        with pytest.raises(DeadlineExceeded, match=r"0\.05 seconds"):
            await lane.run(waiting, deadline_s=0.05)
        with pytest.raises(DeadlineExceeded):
            await first
        running.go.set()
        await reached(running.ended)
        assert running.saw_cancel
        await idle(lane)
        assert not waiting.begun.is_set()
        assert counts(lane) == (0, 0, 1, 2)

    run(test())


class Pieces:
    """Yields numbers, one for each word from the test; remembers how far it got."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0
        self.go = threading.Semaphore(0)

    def __call__(self, cancelled: Cancelling) -> Iterator[int]:
        for number in range(self.count):
            assert self.go.acquire(timeout=PATIENCE)
            if cancelled():
                raise Cancelled("told to stop")
            self.made += 1
            yield number


def test_a_stream_passes_pieces_on_as_they_come() -> None:
    async def test() -> None:
        lane, pieces = Lane("cpu"), Pieces(3)
        async with aclosing(lane.stream(pieces)) as stream:
            for expected in range(3):
                pieces.go.release()
                assert await anext(stream) == expected
                assert pieces.made == expected + 1
            assert [item async for item in stream] == []
        assert counts(lane) == (0, 0, 1, 0)

    run(test())


def test_closing_a_stream_stops_the_work() -> None:
    async def test() -> None:
        lane, pieces = Lane("cpu"), Pieces(100)
        async with aclosing(lane.stream(pieces)) as stream:
            pieces.go.release()
            assert await anext(stream) == 0
        pieces.go.release(100)
        await idle(lane)
        assert pieces.made <= 2
        assert counts(lane) == (0, 0, 1, 1)

    run(test())


def test_an_error_in_the_middle_of_a_stream_comes_after_its_pieces() -> None:
    def job(cancelled: Cancelling) -> Iterator[int]:
        yield 1
        raise Unprocessable("no")

    async def test() -> None:
        lane, seen = Lane("cpu"), []
        with pytest.raises(Unprocessable):
            async with aclosing(lane.stream(job)) as stream:
                async for item in stream:
                    seen.append(item)
        assert seen == [1]

    run(test())


def test_closing_the_lane_tells_everyone() -> None:
    async def test() -> None:
        lane, running, waiting = Lane("cpu"), Job(), Job()
        tasks = [asyncio.create_task(lane.run(running))]
        await reached(running.begun)
        tasks.append(asyncio.create_task(lane.run(waiting)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(lane.close))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable, Unavailable]
        running.go.set()
        await closing
        assert running.saw_cancel
        assert not waiting.begun.is_set()
        with pytest.raises(Unavailable, match="shutting down"):
            await lane.run(Job())

    run(test())


def test_a_lost_device_is_lost_for_all_who_wait_and_come() -> None:
    async def test() -> None:
        lane, first, second = Lane("cuda:0"), Job(DeviceLost("illegal address")), Job()
        tasks = [asyncio.create_task(lane.run(first))]
        await reached(first.begun)
        tasks.append(asyncio.create_task(lane.run(second)))
        while not lane.counters.waiting:
            await asyncio.sleep(0)
        assert lane.lost_since is None
        first.go.set()
        told = await asyncio.gather(*tasks, lane.run(Job()), return_exceptions=True)
        assert all(isinstance(one, DeviceLost) for one in told) and not second.begun.is_set()
        assert lane.close(PATIENCE) and lane.lost_since is not None

    run(test())


@pytest.mark.parametrize("deadline_s", [None, 60.0])
def test_what_takes_too_long_elsewhere_is_not_taken_for_the_deadline(deadline_s: float | None) -> None:
    async def test() -> None:
        lane = Lane("cpu")
        with pytest.raises(TimeoutError, match="a server of pictures"), lane.admitted(deadline_s) as turn:
            async with turn.in_time():
                raise TimeoutError("a server of pictures")

    run(test())


def test_a_thread_that_cannot_be_started_is_started_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test() -> None:
        lane = Lane("cpu")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            with pytest.raises(RuntimeError):
                await lane.run(lambda cancelled: 1)
        assert counts(lane) == (0, 0, 0, 0)
        assert await lane.run(lambda cancelled: 2) == 2
        assert lane.close()

    run(test())


def test_an_errand_that_waits_when_the_lane_closes_is_told_so() -> None:
    async def test() -> None:
        lane, job = Lane("cpu"), Job()
        running = asyncio.create_task(lane.run(job))
        await reached(job.begun)
        errand = asyncio.create_task(lane.alone(lambda: 1))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(lane.close))
        told = await asyncio.gather(running, errand, return_exceptions=True)
        assert [type(one) for one in told] == [Unavailable, Unavailable]
        job.go.set()
        assert await closing

    run(test())


def test_an_errand_that_waits_when_the_device_is_lost_hears_of_it() -> None:
    async def test() -> None:
        lane, job = Lane("cuda"), Job(DeviceLost("an illegal address"))
        running = asyncio.create_task(lane.run(job))
        await reached(job.begun)
        errand = asyncio.create_task(lane.alone(lambda: 1))
        await asyncio.sleep(0)
        job.go.set()
        told = await asyncio.gather(running, errand, return_exceptions=True)
        assert [type(one) for one in told] == [DeviceLost, DeviceLost]
        assert lane.close()

    run(test())
