"""The durable queue over HTTP: how soon a request starts, how many are taken on, how fast its status and its place are told.

    python bench/queue.py [--submits 10000] [--starts 500] [--polls-s 10] [--no-peers]

A hub process stands in front of a provider in this process; requests go through fal's queue door on one machine, each on disk (SQLite,
synchronous=FULL) before its reply. Beside it, in the same run, what one would pick instead (`bench/queue_peers.py`): SAQ, procrastinate and
PgQueuer, where they are installed and their servers run. They are called as libraries, so that their ratios are to `alone`: our queue as a
library, without HTTP; above 1 ours is that many times better.

`fdatasync_ms` is the disk's own speed (4 KiB). `submit_to_start_p50_ms`: from before the POST to the provider being called, at an even
100 a second. `durable_submits_per_s`: 32 submitters. `status_p50_ms`: a status poll with `wait=0` while 10,000 requests wait and 1,000
pollers poll at their clients' own cadence (half of them 0.1 s after each reply as Python's, half 0.5 s as JavaScript's), whom the hub
holds back a little (`pollers_per_s`, `pollers_p50_ms` with that hold). `position_ms`: a first look at the place of the last of them. The
last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder: its queue.py would hide the standard library's

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

from aiohttp import web

from bench import queue_peers
from bench.local import processor
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.policy import Outside
from sensorium.jobs.request import Asked, Made
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.jobs.run import Run
from sensorium.store.database import Database
from sensorium.store.writer import Writer

SUBMITTERS, POLLERS, PROBES = 32, 1000, 200
MODEL, HELD = "bench/now", "bench/held"
SETTINGS = """
[local]
enabled = false
[server]
probe_at_start = false
[jobs]
at_once = 64
limits = {{ "{held}" = 1 }}
[providers.bench]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
models = ["{model}", "{held}"]
"""
ANSWER = {"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}], "usage": {}}  # fmt: skip


def main() -> None:
    """Measure, tell, print the last line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--submits", type=int, default=10_000)
    options.add_argument("--starts", type=int, default=500)
    options.add_argument("--polls-s", type=float, default=10.0)
    options.add_argument("--no-peers", action="store_true")
    options.add_argument("--poll", metavar="HOST:PORT", help=argparse.SUPPRESS)  # be the pollers, for the ids on standard input
    given = options.parse_args()
    if given.poll:
        host, _, port = given.poll.rpartition(":")
        print(json.dumps(asyncio.run(polling((host, int(port)), sys.stdin.read().split(), given.polls_s))))
        return
    print(f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        synced = fdatasync_ms(Path(folder))
        print(f"fdatasync of 4 KiB: {synced:.2f} ms" + ("; the disk is too slow to judge by" if synced > 2 else ""))
        found = asyncio.run(measured(Path(folder), given))
        library = asyncio.run(alone(Path(folder) / "alone", given.starts, given.submits // 4))
        print(f"the queue alone, as a library: {json.dumps(library)}")
    peers = {} if given.no_peers else queue_peers.measured(given.starts, given.submits // 4, SUBMITTERS)
    for name, one in peers.items():
        one["start_ratio"] = round(one["submit_to_start_p50_ms"] / library["submit_to_start_p50_ms"], 2)
        one["submits_ratio"] = round(library["submits_per_s"] / one["submits_per_s"], 2)
        print(f"{name}: {json.dumps(one)}")
    print(json.dumps({"fdatasync_ms": round(synced, 3), **found, "alone": library, "peers": peers}))


async def measured(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """All figures of the hub."""
    started: dict[str, float] = {}
    async with provider(started) as port, hub(folder, port) as at:
        one = Caller(at)
        starts = await submit_to_start(one, started, given.starts)
        print(f"submit to start: p50 {1000 * p(starts, 50):.2f} ms, p95 {1000 * p(starts, 95):.2f} ms")
        ids, seconds = await submits(at, given.submits)
        print(f"durable submits: {len(ids) / seconds:.0f}/s with {SUBMITTERS} submitters")
        places = await positions(Caller(at), ids)
        print(f"position among {len(ids)} waiting: p50 {1000 * p(places, 50):.2f} ms for a first look, p95 {1000 * p(places, 95):.2f} ms")
        probes, others = await polled(at, ids, given.polls_s)
        said = f"p50 {1000 * p(probes, 50):.2f} ms, p95 {1000 * p(probes, 95):.2f} ms; theirs {others['pollers_per_s']}/s"
        print(f"status under {POLLERS} pollers: {said}")
        await one.close()
    return {
        "submit_to_start_p50_ms": ms(starts, 50),
        "submit_to_start_p95_ms": ms(starts, 95),
        "durable_submits_per_s": round(len(ids) / seconds),
        "status_p50_ms": ms(probes, 50),
        "status_p95_ms": ms(probes, 95),
        "position_ms": ms(places, 50),
        **others,
        "waiting": len(ids),
    }


async def submit_to_start(caller: Caller, started: dict[str, float], count: int) -> list[float]:
    """Seconds from before each POST until the provider is called with it, at 100 a second."""
    asked: dict[str, float] = {}
    due = time.perf_counter()
    for number in range(count):
        due += 0.01
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked[f"n{number}"] = time.perf_counter()
        await caller.submit(MODEL, f"n{number}")
    while len(started) < count:
        await asyncio.sleep(0.01)
    return [started[name] - asked[name] for name in asked]


async def submits(at: tuple[str, int], count: int) -> tuple[list[str], float]:
    """The ids of so many requests that wait, and the seconds that it took to take them on."""
    ids: list[str] = []

    async def submitter(share: int) -> None:
        caller = Caller(at)
        for _ in range(share):
            ids.append(await caller.submit(HELD, "x" * 500))
        await caller.close()

    began = time.perf_counter()
    await asyncio.gather(*(submitter(-(-count // SUBMITTERS)) for _ in range(SUBMITTERS)))
    return ids, time.perf_counter() - began


async def positions(caller: Caller, ids: list[str]) -> list[float]:
    """Seconds of first looks at requests near the end of the queue."""
    taken = []
    for id in ids[-PROBES:]:
        began = time.perf_counter()
        told = await caller.status(HELD, id, "?wait=0")
        taken.append(time.perf_counter() - began)
        assert told["status"] == "IN_QUEUE" and told["queue_position"] > len(ids) // 2, told
    await caller.close()
    return taken


async def polled(at: tuple[str, int], ids: list[str], seconds: float) -> tuple[list[float], dict[str, float]]:
    """Seconds of single polls while others poll from a process of their own; those others' figures."""
    command = [sys.executable, __file__, "--poll", f"{at[0]}:{at[1]}", "--polls-s", str(seconds)]
    others = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    telling = asyncio.create_task(others.communicate("\n".join(ids).encode()))
    await asyncio.sleep(min(3.0, seconds / 3))
    probe, taken = Caller(at), list[float]()
    while not telling.done():
        began = time.perf_counter()
        await probe.status(HELD, random.choice(ids), "?wait=0")
        taken.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    await probe.close()
    return taken, json.loads((await telling)[0])


async def polling(at: tuple[str, int], ids: list[str], seconds: float) -> dict[str, float]:
    """Poll as clients do; how many polls were answered in a second, and their median with the hub's hold."""
    until, held = time.perf_counter() + seconds, list[float]()

    async def poller(number: int) -> None:
        caller, id, pause = Caller(at), random.choice(ids), 0.1 if number % 2 else 0.5
        await asyncio.sleep(random.random())
        while time.perf_counter() < until:
            began = time.perf_counter()
            await caller.status(HELD, id, "?logs=false")
            held.append(time.perf_counter() - began)
            await asyncio.sleep(pause)
        await caller.close()

    await asyncio.gather(*(poller(number) for number in range(POLLERS)))
    return {"pollers_per_s": round(len(held) / seconds), "pollers_p50_ms": ms(held, 50)}


async def alone(folder: Path, starts: int, count: int) -> queue_peers.Figures:
    """The same queue as a library in this process, which is how the peers are used."""
    began: dict[str, float] = {}

    async def work(run: Run) -> Made:
        began[run.body.decode()] = time.perf_counter()
        return Made(b"{}")

    with closing(Database(folder)) as database:
        requests = Requests(database, Writer(database))
        jobs = Jobs(requests, Results(folder), {"bench": work}, Lanes(queue_peers.AT_ONCE, lambda lane: 64), Outside(lambda error: "final"))
        running = asyncio.create_task(jobs.run())
        try:
            asked = Asked("bench", "bench/now", "", "bench/now", "bench", b"")
            return await queue_peers.figures(began, lambda name: jobs.submit(replace(asked, body=name.encode())), starts, count, SUBMITTERS)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            requests.close()


class Caller:
    """One connection to the hub that is kept open, with as little of its own as can be: it shares the machine with the hub."""

    def __init__(self, at: tuple[str, int]) -> None:
        self._at = at
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def submit(self, model: str, prompt: str) -> str:
        """The id of a new request."""
        body = json.dumps({"prompt": prompt}).encode()
        told = await self._call(f"POST /fal/queue/{model} HTTP/1.1", body)
        return str(told["request_id"])

    async def status(self, model: str, id: str, query: str) -> Any:
        """The status of a request."""
        return await self._call(f"GET /fal/queue/{model}/requests/{id}/status{query} HTTP/1.1", b"")

    async def _call(self, line: str, body: bytes) -> Any:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._at)
        reader, writer = self._streams
        head = f"{line}\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        said = await reader.readuntil(b"\r\n\r\n")
        length = int(said.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        answer = json.loads(await reader.readexactly(length))
        if not said.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
            raise RuntimeError(f"{line}: {said.splitlines()[0]!r} {answer}")
        return answer

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


@asynccontextmanager
async def provider(started: dict[str, float]) -> AsyncIterator[int]:
    """A chat service that notes when it is called with which prompt; calls of the held model are never answered."""

    async def chat(request: web.Request) -> web.Response:
        now, asked = time.perf_counter(), await request.json()
        if asked["model"] == HELD:
            await asyncio.Event().wait()
        content = asked["messages"][-1]["content"]
        started[content if isinstance(content, str) else content[-1]["text"]] = now
        return web.json_response(ANSWER)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@asynccontextmanager
async def hub(folder: Path, port: int) -> AsyncIterator[tuple[str, int]]:
    """A hub process in front of it."""
    settings = folder / "sensorium.toml"
    settings.write_text(SETTINGS.format(port=port, model=MODEL, held=HELD))
    command = [
        sys.executable,
        "-m",
        "sensorium.cli",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(folder / "data"),
        "--settings",
        str(settings),
    ]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MAC_")}
    said = folder / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        while "http://127.0.0.1:" not in said.read_text():
            if process.poll() is not None:
                raise RuntimeError(said.read_text())
            await asyncio.sleep(0.05)
        yield "127.0.0.1", int(said.read_text().split("http://127.0.0.1:", 1)[1].split()[0].strip("/,.;"))
    finally:
        process.kill()
        process.wait()


def fdatasync_ms(folder: Path, count: int = 200) -> float:
    """Median milliseconds of one 4 KiB write that is synced."""
    taken = []
    with (folder / "probe").open("wb") as file:
        for _ in range(count):
            file.write(os.urandom(4096))
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def p(taken: list[float], percent: int) -> float:
    """A percentile."""
    return sorted(taken)[min(len(taken) - 1, len(taken) * percent // 100)]


def ms(taken: list[float], percent: int) -> float:
    """A percentile in milliseconds."""
    return round(1000 * p(taken, percent), 3)


if __name__ == "__main__":
    main()
