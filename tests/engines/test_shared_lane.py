"""Calls that share a device: they run beside each other, leave at any time, are refused when too many wait, and never wait for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from sensorium.engines.diffusion_vlm.answering import Delta, Finished, Job
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.numpy_backend import NumpyBackend
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.shared_lane import SharedLane
from sensorium.errors import Busy, Cancelled, DeadlineExceeded, DeviceLost, Unavailable, UpstreamFailed
from tests.engines.asgi import PATIENCE
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint

QUESTION = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}]}]


class Gated(NumpyBackend):
    """Forwards happen when a test lets them."""

    def __init__(self, made: NumpyBackend, slots: int) -> None:
        super().__init__(made._model, made._tower, slots)
        self.go = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        self.widths: list[int] = []
        self.fault: Exception | None = None

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        self.reached.release()
        assert self.go.acquire(timeout=PATIENCE)
        self.widths.append(len(rows))
        if self.fault is not None:
            raise self.fault
        return super().forward(rows)


class Bench:
    """A lane over a gated backend."""

    def __init__(self, folder: Path, slots: int, limit: int) -> None:
        config = read_config(folder)
        self.backend = Gated(NumpyBackend.load(folder, config), slots)
        self.model = DiffusionVLM.over(folder, config, self.backend, shared=True)
        self.lane = SharedLane("test", self.model.batch, limit)

    def job(self, **more: Any) -> Callable[[Callable[[], bool]], Job]:
        job = self.model.prepare(Ask(QUESTION, **more))
        return lambda cancelled: job

    async def answer(self, deadline_s: float | None = None, **more: Any) -> tuple[str, Finished]:
        async with aclosing(self.lane.stream(self.job(**more), deadline_s)) as events:
            *deltas, finished = [event async for event in events]
        assert isinstance(finished, Finished)
        return "".join(one.text for one in deltas if isinstance(one, Delta)), finished

    def free(self) -> None:
        self.backend.go.release(100_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("lane") / "tiny")


def run(folder: Path, test: Callable[[Bench], Any], slots: int = 3, limit: int = 8) -> None:
    async def whole() -> None:
        bench = Bench(folder, slots, limit)
        try:
            await asyncio.wait_for(test(bench), 3 * PATIENCE)
        finally:
            bench.free()
            await asyncio.to_thread(bench.lane.close)

    asyncio.run(whole())


async def at_forward(bench: Bench) -> None:
    assert await asyncio.to_thread(bench.backend.reached.acquire, timeout=PATIENCE)


def test_answers_share_forwards_and_equal_those_of_one_alone(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.free()
        wanted = await bench.answer(mode="ar", max_tokens=30)
        many = await asyncio.gather(*(bench.answer(mode="ar", max_tokens=30) for _ in range(7)))
        assert {text for text, _ in many} == {wanted[0]}
        assert max(bench.backend.widths) == 3
        assert bench.lane.counters.finished == 8 and bench.lane.counters.running == 0 == bench.lane.counters.waiting

    run(folder, test)


def test_a_caller_who_leaves_frees_the_slot_between_two_forwards(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        leaving = asyncio.create_task(bench.answer(mode="ar", max_tokens=400))
        await at_forward(bench)
        waiting = asyncio.create_task(bench.answer(mode="ar", max_tokens=3))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        bench.free()
        await waiting
        assert (bench.lane.counters.cancelled, bench.lane.counters.finished) == (1, 1)

    run(folder, test, slots=1)


def test_too_many_are_refused_with_the_time_after_which_to_come_again(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        first = asyncio.create_task(bench.answer(mode="ar", max_tokens=3))
        await at_forward(bench)
        others = [asyncio.create_task(bench.answer(mode="ar", max_tokens=3)) for _ in range(2)]
        while bench.lane.counters.waiting < 2:
            await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await bench.answer()
        assert refused.value.retry_after and refused.value.retry_after >= 1
        bench.free()
        await asyncio.gather(first, *others)

    run(folder, test, slots=1, limit=2)


def test_a_deadline_ends_an_answer_that_is_under_way(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        late = asyncio.create_task(bench.answer(0.05, mode="ar", max_tokens=400))
        await at_forward(bench)
        with pytest.raises(DeadlineExceeded):
            await late
        bench.free()
        await bench.answer(mode="ar", max_tokens=3)

    run(folder, test)


def test_a_fault_of_the_batch_itself_leaves_nobody_waiting(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        def broken() -> Any:
            raise ZeroDivisionError("inside")

        bench.free()
        kept, bench.model.batch.tick = bench.model.batch.tick, broken  # type: ignore[method-assign]
        told = await asyncio.gather(*(bench.answer() for _ in range(3)), return_exceptions=True)
        assert all(isinstance(one, UpstreamFailed) and "inside" not in one.message for one in told)
        bench.model.batch.tick = kept  # type: ignore[method-assign]
        await bench.answer(mode="ar", max_tokens=3)

    run(folder, test)


def test_what_a_forward_raises_reaches_its_caller_in_words_for_callers(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.free()
        bench.backend.fault = Unavailable("no room", code="out_of_memory")
        with pytest.raises(Unavailable, match="no room"):
            await bench.answer()
        bench.backend.fault = None
        await bench.answer(mode="ar", max_tokens=3)
        assert bench.lane.counters.failed == 1

    run(folder, test)


def test_a_lost_device_ends_all_calls_and_takes_no_more(folder: Path) -> None:
    """Those in the forward, who are not tried one by one, those who wait, and those who come later are told the same."""

    async def test(bench: Bench) -> None:
        calls = [asyncio.create_task(bench.answer(mode="ar", max_tokens=400)) for _ in range(4)]
        await at_forward(bench)
        bench.backend.fault = DeviceLost("illegal address")
        bench.free()
        told = [*await asyncio.gather(*calls, return_exceptions=True), *await asyncio.gather(bench.answer(), return_exceptions=True)]
        assert all(isinstance(one, DeviceLost) for one in told) and len(told) == 5
        assert len(bench.backend.widths) == 1 and bench.lane.lost_since is not None
        assert bench.lane.close(PATIENCE)

    run(folder, test, slots=2)


def test_closing_ends_those_who_are_served_and_those_who_wait(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        calls = [asyncio.create_task(bench.answer(mode="ar", max_tokens=400)) for _ in range(3)]
        await at_forward(bench)
        closing = asyncio.create_task(asyncio.to_thread(bench.lane.close))
        while not bench.lane._closed:
            await asyncio.sleep(0)
        bench.free()
        await closing
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in told)

    run(folder, test, slots=1)


def test_it_says_since_when_a_forward_is_under_way(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        assert bench.lane.busy_since is None
        call = asyncio.create_task(bench.answer(mode="ar", max_tokens=2))
        await at_forward(bench)
        assert bench.lane.busy_since is not None
        bench.free()
        await call

    run(folder, test)


def test_a_burst_of_prompts_does_not_hold_up_an_answer(folder: Path) -> None:
    """Each of them is admitted between two forwards, since its pictures may take as long as many forwards."""
    order: list[str] = []

    async def test(bench: Bench) -> None:
        admit, tick = bench.model.batch.admit, bench.model.batch.tick

        def admitting(job: Job, waiting: int = 0) -> Any:
            order.append("admit")
            return admit(job, waiting)

        def ticking() -> Any:
            order.append("tick")
            return tick()

        bench.model.batch.admit, bench.model.batch.tick = admitting, ticking  # type: ignore[method-assign]
        calls = [asyncio.create_task(bench.answer(mode="ar", max_tokens=20))]
        await at_forward(bench)
        calls += [asyncio.create_task(bench.answer(mode="ar", max_tokens=2)) for _ in range(3)]
        while bench.lane.counters.waiting < 3:
            await asyncio.sleep(0)
        bench.free()
        await asyncio.gather(*calls)

    run(folder, test, slots=4)
    assert order[:8] == ["admit", "tick"] * 4


def test_an_errand_comes_before_those_who_wait(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        first = asyncio.create_task(bench.answer(mode="ar", max_tokens=3))
        await at_forward(bench)
        ended: list[str] = []
        errand = asyncio.create_task(bench.lane.alone(lambda: ended.append("errand")))
        others = [asyncio.create_task(bench.answer(mode="ar", max_tokens=3)) for _ in range(4)]
        for number, one in enumerate(others):
            one.add_done_callback(lambda _, number=number: ended.append(f"answer {number}"))
        while bench.lane.counters.waiting < 4:
            await asyncio.sleep(0)
        bench.free()
        await asyncio.gather(first, errand, *others)
        assert ended[0] == "errand"

    run(folder, test)


def test_a_model_that_leaves_between_two_looks_does_not_end_the_thread(folder: Path) -> None:
    """Its batch is taken away as soon as it has been unloaded, while the device's thread goes on."""

    class Leaving(SharedLane):
        looks = 0

        @property
        def batch(self) -> Any:
            if self.leaving:
                self.looks += 1
                return None if self.looks % 2 == 0 else self.there
            return self.there

        @batch.setter
        def batch(self, batch: Any) -> None:
            self.there, self.leaving = batch, False

    async def test(bench: Bench) -> None:
        lane = Leaving("test", bench.model.batch)
        bench.free()
        for _ in range(3):
            lane.leaving = True
            await asyncio.wait_for(lane.alone(lambda: None), PATIENCE)
        lane.leaving = False
        job = bench.job(mode="ar", max_tokens=2)
        async with aclosing(lane.stream(job)) as events:
            assert isinstance([event async for event in events][-1], Finished)
        await asyncio.to_thread(lane.close)

    run(folder, test)


def test_a_job_that_gives_up_counts_as_cancelled(folder: Path) -> None:
    def gone(cancelled: Any) -> Job:
        raise Cancelled("the caller went away")

    async def test(bench: Bench) -> None:
        with pytest.raises(Cancelled):
            async with aclosing(bench.lane.stream(gone)) as events:
                await anext(events)
        assert (bench.lane.counters.cancelled, bench.lane.counters.failed) == (1, 0)

    run(folder, test)


def test_callers_hear_of_the_closing_while_the_device_is_still_busy(folder: Path) -> None:
    async def test(bench: Bench) -> None:
        calls = [asyncio.create_task(bench.answer(mode="ar", max_tokens=400)) for _ in range(2)]
        await at_forward(bench)
        assert not await asyncio.to_thread(bench.lane.close, 0.0)
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in told)

    run(folder, test, slots=1)
