"""What runs log: limits, order, each line once, whole before the end is (jobs.md, section 11, and test J-26)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.logs import Line, Log
from sensorium.jobs.request import Made, Request, State
from sensorium.jobs.run import Run
from sensorium.store.database import StoreUnavailable
from tests.jobs.queues import ASKED, Failed, claimed, failing, put, queue, table, until
from tests.store.vaults import Clock


def test_a_long_line_is_cut() -> None:
    log = Log(1)
    log.add(0.0, "INFO", "é" * 20_000)
    assert log.lines == [Line(1, 1, 0.0, "INFO", "é" * 16_384)]


def test_after_too_many_lines_one_says_so() -> None:
    log = Log(3)
    kept = [log.add(0.0, "INFO", "x") for _ in range(10_005)]
    assert (kept.count(True), len(log.lines), [line.number for line in log.lines]) == (10_001, 10_001, list(range(1, 10_002)))
    assert (log.lines[-1].level, "truncated" in log.lines[-1].message, log.lines[-2].message) == ("WARN", True, "x")


def test_after_too_many_characters_one_says_so() -> None:
    log = Log(1)
    kept = [log.add(0.0, "INFO", "x" * 16_384) for _ in range(200)]
    assert (kept.count(True), "truncated" in log.lines[-1].message) == (129, True)


def test_the_limits_are_those_of_all_runs_together() -> None:
    log = Log(2)
    log.follow([Line(1, number, 0.0, "INFO", "x") for number in range(1, 9_999)])
    assert [log.add(0.0, "INFO", "y") for _ in range(5)] == [True, True, True, False, False]
    assert [line.number for line in log.unwritten()] == [1, 2, 3]


@given(st.lists(st.sampled_from(["add", "write", "fail"]), max_size=60), st.integers(0, 3))
def test_every_line_is_written_at_least_once_and_none_lost(verbs: list[str], earlier: int) -> None:
    log, disk, number = Log(2), list[Line](), 0
    log.follow([Line(1, place, 0.0, "INFO", "old") for place in range(1, earlier + 1)])
    for verb in [*verbs, "write"]:
        if verb == "add":
            number += 1
            log.add(0.0, "INFO", str(number))
        elif verb == "write":
            lines = log.unwritten()
            disk += lines
            log.wrote(lines)
        else:
            log.unwritten()
    assert disk == log.lines[earlier:]
    assert [line.number for line in disk] == list(range(1, number + 1))


def test_what_a_run_says_after_its_end_is_not_kept(tmp_path: Path) -> None:
    async def does() -> None:
        async with table(tmp_path) as requests:
            await put(requests)
            (run,) = await claimed(requests)
            await requests.write_lines(run, [Line(1, 1, 0.0, "INFO", "one")])
            await requests.finish(run, State.SUCCEEDED, Made(b""), [Line(1, 1, 0.0, "INFO", "one"), Line(1, 2, 0.0, "INFO", "two")])
            await requests.write_lines(run, [Line(1, 3, 0.0, "INFO", "late")])
            assert [line.message for line in requests.lines(run.id)] == ["one", "two"]

    asyncio.run(does())


async def followed(jobs: Jobs, request: Request) -> list[tuple[int, int, str]]:
    """What a stream shows: what is new, whenever something is, until the request is over."""
    seen, last = list[tuple[int, int, str]](), (0, 0)
    while True:
        for line in await jobs.lines(request, last):
            last = line.attempt, line.number
            seen.append((*last, line.message))
        if request.done:
            return seen
        request = await jobs.changed(request, 5.0)


def test_every_stream_shows_each_line_once(tmp_path: Path) -> None:
    """J-26 in one process: three streams, 5,000 lines, a retry in the middle, a disk that fails now and then."""
    clock = Clock()

    async def logs_much(run: Run) -> Made:
        for number in range(2500):
            run.log(f"line {number}")
            if number % 100 == 0:
                await asyncio.sleep(0.001)
        if run.request.attempt == 1:
            raise Failed("server_error")
        return Made(b"1")

    def prepare(jobs: Jobs) -> None:
        failures = [StoreUnavailable("full")] * 3
        jobs.requests.write_lines = failing(jobs.requests.write_lines, *failures)  # type: ignore[method-assign]

    async def does() -> None:
        async with queue(tmp_path, logs_much, clock=clock, prepare=prepare) as jobs:
            made, _ = await jobs.submit(ASKED)
            streams = [asyncio.create_task(followed(jobs, made)) for _ in range(3)]
            await until(lambda: jobs.requests.of("a", made.id).state is State.DELAYED)
            clock.now += 60.0
            seen = await asyncio.gather(*streams)
            expected = [(1, number + 1, f"line {number}") for number in range(2500)]
            assert "tried again" in seen[0][2500][2]
            for one in seen:
                assert [line for line in one if line[0] == 1][:2500] == expected
                assert [line for line in one if line[0] == 2] == [(2, number, message) for _, number, message in expected]
            await until(lambda: not jobs._runner.running)
            assert [(line.attempt, line.number, line.message) for line in await jobs.lines(made)] == seen[0]

    asyncio.run(does())
