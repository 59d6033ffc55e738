"""Hundreds of calls to a shared lane with real threads, callers who leave and a backend that fails: chosen by seeds, no clock, no sleep.

Every call ends once, every answer that is finished equals that of one alone, and when all is over nothing is left behind.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.engines.diffusion_vlm.answering import Delta, Finished, Job
from sensorium.engines.diffusion_vlm.batch import Batch
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.numpy_backend import NumpyBackend
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.lane import Ticket
from sensorium.engines.shared_lane import SharedLane
from sensorium.errors import BadRequest, Busy, Cancelled, DeadlineExceeded, SensoriumError, Unavailable, UpstreamFailed
from tests.engines.asgi import PATIENCE
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint
from tests.engines.diffusion_vlm.test_batch import PICTURES, ask, single

CALLS, LIMIT = 60, 8
SHORT = {"max_tokens": 14, "block_length": 8}
BOTH = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is this?"}]}]
ASKS = [
    ask(0, None, mode="ar", **SHORT),
    ask(1, 0, mode="ar", **SHORT),
    ask(2, 0, mode="linear", **SHORT),
    ask(2, 1, mode="diffusion", threshold=0.0, **SHORT),
    ask(3, 1, mode="diffusion", threshold=None, steps=4, **SHORT),
    ask(3, None, mode="linear", **SHORT),
    ask(0, 2, mode="ar", temperature=1.0, **SHORT),
    replace(ask(0, None, mode="linear", **SHORT), messages=BOTH, images=[PICTURES[0], PICTURES[0]]),
    replace(ask(0, None, mode="ar", **SHORT), messages=BOTH, images=[PICTURES[0], PICTURES[2]]),
    ask(2, None, mode="auto", stop=("is",), **SHORT),
]


class Tiring:
    """A grammar that allows everything, until its limits are used up."""

    def __init__(self, words: int) -> None:
        self.somewhere = np.full(words, 0xFFFFFFFF, np.uint32)
        self.left = 4

    def allowed(self) -> Any:
        return self.somewhere

    def path(self, tokens: Sequence[int]) -> tuple[int, Any]:
        return 0, self.somewhere[None]

    def forced(self, limit: int) -> list[int]:
        return []

    def commit(self, tokens: Sequence[int]) -> None:
        self.left -= len(tokens)
        if self.left <= 0:
            raise BadRequest("the schema is too much")


class Failing(NumpyBackend):
    """Fails now and then while `rate` is above 0. Rows with the seed 666 never come out whole."""

    def __init__(self, made: NumpyBackend, slots: int, chance: random.Random) -> None:
        super().__init__(made._model, made._tower, slots)
        self.chance, self.rate = chance, 0.0

    def stumble(self) -> None:
        if self.chance.random() < self.rate:
            raise self.chance.choice([Unavailable("no room", code="out_of_memory"), ZeroDivisionError("inside"), MemoryError("inside")])

    def reserve(self, length: int) -> None:
        self.stumble()
        super().reserve(length)

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        self.stumble()
        return [self.spoilt(row, answer) for row, answer in zip(rows, super().forward(rows), strict=True)]

    def spoilt(self, row: Row, answer: Answer) -> Answer:
        return (answer[0], np.full_like(answer[1], np.nan)) if row.seed == 666 and self.chance.random() < 0.3 else answer

    def features(self, pixels: Any) -> Any:
        self.stumble()
        return super().features(pixels)

    def ready(self, features: object) -> bool:
        return features is None or self.chance.random() > self.rate

    def join(self, parts: Sequence[Any]) -> Any:
        self.stumble()
        return super().join(parts)

    def copy(self, source: int, target: int, length: int) -> None:
        self.stumble()
        super().copy(source, target, length)


class Crowd:
    """Callers of one lane, each of whom does what the seed says, and what they were told."""

    def __init__(self, model: DiffusionVLM, lane: SharedLane, wanted: Sequence[Any], chance: random.Random) -> None:
        self.model, self.lane, self.wanted, self.chance = model, lane, wanted, chance
        self.told: Counter[str] = Counter()
        self.some_told = asyncio.Event()
        self.door = asyncio.Semaphore(LIMIT)

    async def call(self, number: int) -> None:
        """One call: it comes when there may be a place, and after some others have begun."""
        async with self.door:
            for _ in range(self.chance.randrange(60)):
                await asyncio.sleep(0)
            await self.come(number)
        if self.told.total() > CALLS // 2:
            self.some_told.set()

    async def come(self, number: int) -> None:
        """It may leave after some of the text, or before there is any."""
        leaves = self.chance.choice([None, None, None, None, 0, 1, 3])
        deadline_s = self.chance.choice([None, None, None, None, None, 0.0])
        work = asyncio.create_task(self.answered(number, leaves, deadline_s))
        for _ in range(self.chance.choice([0, 5, 40])):
            await asyncio.sleep(0)
        if self.chance.random() < 0.1:
            work.cancel()
        try:
            self.told[await work] += 1
        except asyncio.CancelledError:
            self.told["left"] += 1
        except SensoriumError as error:
            assert "inside" not in error.message
            self.told[type(error).__name__] += 1
        except (ZeroDivisionError, MemoryError):  # at admission: the door has words for them
            self.told["fault"] += 1

    async def answered(self, number: int, leaves: int | None, deadline_s: float | None) -> str:
        events: list[Any] = []
        async with aclosing(self.lane.stream(self.job(number), deadline_s)) as stream:
            async for event in stream:
                assert not events or not isinstance(events[-1], Finished), "something came after the end"
                events.append(event)
                if leaves is not None and len(events) > leaves:
                    return "left"
        self.compare(number, events)
        return "finished"

    def job(self, number: int) -> Any:
        kind = number % (len(ASKS) + 2)
        if kind < len(ASKS):
            made = self.model.prepare(replace(ASKS[kind], seed=5))
        elif kind == len(ASKS):
            made = self.model.prepare(replace(ASKS[0], seed=666))
        else:
            made = replace(self.model.prepare(ASKS[0]), grammar=Tiring(-(-self.model.config.vocab // 32)))

        def job(cancelled: Any) -> Job:
            if cancelled():
                raise Cancelled("the caller went away")
            return made

        return job

    def compare(self, number: int, events: Sequence[Any]) -> None:
        """A finished answer equals that of one alone; its times fit together."""
        *deltas, finished = events
        text = "".join(one.text for one in deltas if isinstance(one, Delta))
        kind = number % (len(ASKS) + 2)
        assert isinstance(finished, Finished) and kind <= len(ASKS)
        expected, (reason, used) = self.wanted[kind % len(ASKS)]
        usage = finished.usage
        assert (text, finished.reason) == (expected, reason)
        assert 0 <= usage.cached_tokens < usage.prompt_tokens
        if ASKS[kind % len(ASKS)].mode != "auto":
            assert replace(usage, cached_tokens=0) == used
        times = finished.timings
        parts = (times.preprocessing_time, times.gpu_transfer_time, times.generation_time, times.decode_time)
        assert min(parts) >= 0 and sum(parts) <= times.total_time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("stress") / "tiny")


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[Any]:
    alone = DiffusionVLM.load(folder)
    return [single(alone, replace(question, seed=5)) for question in ASKS]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """How often each ticket was ended."""
    counted: Counter[int] = Counter()
    kept: list[Ticket] = []  # so that no two have one id
    end = Ticket.end

    def counting(ticket: Ticket, error: BaseException | None) -> None:
        kept.append(ticket)
        counted[id(ticket)] += 1
        end(ticket, error)

    monkeypatch.setattr(Ticket, "end", counting)
    yield counted


@pytest.mark.parametrize("seed", range(10))
def test_every_call_ends_once_and_nothing_is_left_behind(folder: Path, wanted: list[Any], ends: Counter[int], seed: int) -> None:
    chance = random.Random(seed)
    config = read_config(folder)
    slots = chance.choice([1, 2, 4, 7])
    backend = Failing(NumpyBackend.load(folder, config), slots, random.Random(seed + 1))
    model = DiffusionVLM.over(folder, config, backend, shared=True)
    lane = SharedLane("test", model.batch, LIMIT)
    closes = seed % 3 == 2

    async def errand() -> None:
        for _ in range(chance.randrange(600)):
            await asyncio.sleep(0)
        with suppress(Unavailable):
            assert await lane.alone(lambda: len(lane._served)) == 0

    async def whole() -> Crowd:
        crowd = Crowd(model, lane, wanted, chance)
        backend.rate = chance.choice([0.0, 0.02, 0.1])
        calls = [asyncio.create_task(crowd.call(number)) for number in range(CALLS)]
        errands = [asyncio.create_task(errand()) for _ in range(3)]
        if closes:
            await crowd.some_told.wait()
            assert await asyncio.to_thread(lane.close, PATIENCE)
        await asyncio.gather(*calls, *errands)
        if not closes:
            await calm(crowd, backend)
            assert await asyncio.to_thread(lane.close, PATIENCE)
        return crowd

    check(lane, model.batch, asyncio.run(asyncio.wait_for(whole(), 3 * PATIENCE)))
    assert closes or set(ends.values()) == {1}


async def calm(crowd: Crowd, backend: Failing) -> None:
    """Whatever happened before: with nothing that fails, every question gets its answer."""
    backend.rate = 0.0
    for number in range(len(ASKS)):
        assert await crowd.answered(number, None, None) == "finished"
        crowd.told["finished"] += 1


def check(lane: SharedLane, batch: Batch, crowd: Crowd) -> None:
    """All slots are free and the counters tell what the callers were told."""
    counters, told, figures = lane.counters, crowd.told, batch.figures
    assert (batch.active, batch.room, lane._served) == ([], batch.backend.slots, {})
    assert (counters.running, counters.waiting, figures.active) == (0, 0, 0)
    known = {"finished", "left", "fault", *(one.__name__ for one in (Busy, BadRequest, DeadlineExceeded, Unavailable, UpstreamFailed))}
    assert set(told) <= known
    assert told["Busy"] == counters.refused
    ended = counters.finished + counters.cancelled + counters.failed
    never_queued = sum(told.values()) - told["Busy"] - ended
    assert 0 <= never_queued <= told["left"] + (told["Unavailable"] if lane._closed else 0)
    assert told["finished"] <= counters.finished <= told["finished"] + told["left"] + told["DeadlineExceeded"]
    assert counters.finished + figures.failed <= figures.answers <= ended
    assert figures.prefill <= figures.answers
