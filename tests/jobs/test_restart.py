"""What the next hub makes of what one has left: runs, results that were nearly written, tags, files of nobody (J-07)."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensorium.jobs.lanes import Lanes
from sensorium.jobs.request import Made, State
from sensorium.jobs.results import Results, input_name
from sensorium.jobs.run import Run
from tests.api.test_video import COSMOS, FILM
from tests.hub_process import free_port, start_hub
from tests.jobs.queues import ASKED, Gate, claimed, counted, put, queue, stored, table, until
from tests.simulators.site import AI, KEY, eventually, running

SETTINGS = """
[local]
enabled = false
[router.video]
url = "http://{address}{ai}/v1/cosmos"
key_env = "FILM_KEY"
models = ["{model}"]
"""
KEPT = {"0": {"call": "video x generate", "provider": "far", "upstream": "x", "handles": []}}


def call(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
        return json.load(reply)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_video_outlives_its_hub(tmp_path: Path, end: signal.Signals) -> None:
    port = free_port()
    videos = f"http://127.0.0.1:{port}/v1/videos"
    with running(work_s={"*": 40.0}) as site:
        site.clock.held = True
        settings = tmp_path / "sensorium.toml"
        settings.write_text(SETTINGS.format(address=site.address, ai=AI, model=COSMOS))
        arguments = (tmp_path, port, "--settings", str(settings))
        with start_hub(*arguments, FILM_KEY=KEY) as hub:
            made = call(videos, {"model": COSMOS, **FILM})
            eventually(lambda: site.simulator.counters["invoked"] == 1)
            hub.send_signal(end)
            hub.wait(30)
        site.clock.held = False
        with start_hub(*arguments, FILM_KEY=KEY):
            eventually(lambda: call(f"{videos}/{made['id']}")["status"] == "completed")
        assert site.simulator.counters["invoked"] == 2


def test_an_orphan_runs_without_any_other_traffic(tmp_path: Path) -> None:
    """The hub was killed: its row says that it runs."""

    async def does() -> None:
        async with table(tmp_path) as requests:
            made = await put(requests)
            await claimed(requests)
        async with queue(tmp_path) as jobs:
            await until(lambda: jobs.requests.of("a", made.id).state is State.SUCCEEDED)
            ended = await jobs.of("a", made.id)
            assert (ended.attempt, ended.runs) == (2, 2)
            assert [outcome for *_, outcome in jobs.requests.attempts(made.id)] == ["lost", "succeeded"]

    asyncio.run(does())


def test_a_hub_that_stops_gives_back_what_it_runs(tmp_path: Path) -> None:
    """That counts as no run. What a run had kept of its provider is kept for the next one."""
    handles = list[Any]()

    async def keeps(run: Run) -> Made:
        handles.append(run.handle)
        if run.request.attempt == 1:
            await run.keep(KEPT)
            run.log("begun")
            await asyncio.Event().wait()
        run.log("taken up")
        return Made(b"1")

    async def does() -> None:
        async with queue(tmp_path, keeps) as jobs:
            made, _ = await jobs.submit(ASKED)
            await until(lambda: jobs.requests.of("a", made.id).upstream is not None)
        async with queue(tmp_path, keeps) as jobs:
            ended = await jobs.ended(await jobs.of("a", made.id))
            await until(lambda: not jobs._runner.running)
            assert (ended.state, ended.attempt, ended.runs, ended.upstream) == (State.SUCCEEDED, 2, 1, None)
            assert handles == [None, KEPT]
            assert [(line.attempt, line.number, line.message) for line in await jobs.lines(ended)] == [(1, 1, "begun"), (2, 1, "taken up")]
            assert list((tmp_path / "results").iterdir()) == []

    asyncio.run(does())


def test_a_result_that_was_whole_is_not_made_again(tmp_path: Path) -> None:
    gate = Gate()

    async def does() -> None:
        async with table(tmp_path) as requests:
            made = await put(requests, webhook_url="http://there/")
            (run,) = await claimed(requests)
            Results(tmp_path).spool(run, Made(b"x" * 70_000, told={"headers": {}}))
        async with queue(tmp_path, gate) as jobs:
            await until(lambda: jobs.requests.of("a", made.id).done)
            ended = await jobs.of("a", made.id)
            assert (ended.state, await jobs.output(ended), gate.began) == (State.SUCCEEDED, b"x" * 70_000, [])
            await until(jobs._runner.ready.is_set)
            assert [file.name for file in (tmp_path / "results").iterdir()] == [made.id]
            assert jobs.requests._database.read("SELECT count(*) FROM outbox") == [(1,)]

    asyncio.run(does())


def test_what_belongs_to_nobody_is_deleted(tmp_path: Path) -> None:
    async def does() -> None:
        async with queue(tmp_path, lanes=Lanes(0, lambda lane: 0)) as jobs:
            made, _ = await jobs.submit(replace(ASKED, body=b"x" * 70_000))
        for name in ("unknown", "unknown.in", f"{made.id}.3.part"):
            (tmp_path / "results" / name).write_bytes(b"half")
        async with queue(tmp_path) as jobs:
            await until(jobs._runner.ready.is_set)
            names = {file.name for file in (tmp_path / "results").iterdir()}
            assert {"unknown", "unknown.in", f"{made.id}.3.part"} & names == set()
            assert await jobs.output(await jobs.ended(await jobs.of("a", made.id))) == b"x" * 70_000
            assert (tmp_path / "results" / input_name(made.id)).exists()

    asyncio.run(does())


def test_shares_go_on_after_a_restart(tmp_path: Path) -> None:
    """A caller far ahead must not make a new one wait behind everybody: the lane's time is that of the first who waits."""

    async def does() -> None:
        async with table(tmp_path) as requests:
            for tag in (500.0, 501.0, 502.0):
                await put(requests, caller="b", vtag=tag)
            await put(requests, caller="a", vtag=9000.0)
        async with queue(tmp_path, lanes=Lanes(0, lambda lane: 0)) as jobs:
            new, _ = await jobs.submit(replace(ASKED, caller="new"))
            again, _ = await jobs.submit(replace(ASKED, caller="b"))
            assert (new.vtag, again.vtag) == (500.0, 503.0)
            assert counted(jobs) == stored(jobs) == ({"lane": 6}, {"a": 1, "b": 4, "new": 1}, {})

    asyncio.run(does())
