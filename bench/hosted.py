"""The hub under many mixed calls: nothing lost, nothing twice, memory flat; and how much time the relay adds.

    python bench/hosted.py [--calls 10000] [--concurrency 64] [--faults 0.05] [--probes 200]

A hub process stands in front of a simulator process. Every modality has two routes: the first one meets faults, the second none, so
that most faults are answered by the other route; what cannot be (a body that breaks off) must be one clear error. MB is 10^6 bytes.
The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder: its queue.py would hide the standard library's

import argparse
import asyncio
import collections
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from sensorium.simulators.sound import riff, tone

FAULTY, SPARE = "nvapi-faulty", "nvapi-spare"
LLAMA, E5, RERANK = "meta/llama-3.1-8b-instruct", "nvidia/nv-embedqa-e5-v5", "nvidia/llama-3.2-nv-rerankqa-1b-v2"
SCHNELL = "black-forest-labs/flux.1-schnell"
MAGPIE = "877104f7-e885-42b9-8de8-f6e4c6303969.invocation.api.nvcf.nvidia.com"
PARAKEET = "1598d209-5e27-4d3c-8079-4751568b1081.invocation.api.nvcf.nvidia.com"
# shares of the faults; 429 is left out, since it rightly slows everybody down
FAULTS = {"500": 0.3, "degraded": 0.2, "garbage": 0.2, "half-body": 0.15, "stream-error": 0.1, "no-answer": 0.05}
SETTINGS = """
[local]
enabled = false
[router.chat]
url = "{site}/integrate.api.nvidia.com/v1"
key_env = "FAULTY_KEY"
models = ["{LLAMA}"]
timeout_s = 5
idle_s = 5
[router.embeddings]
url = "{site}/integrate.api.nvidia.com/v1"
key_env = "FAULTY_KEY"
models = ["{E5}"]
timeout_s = 5
[router.image]
url = "{site}/ai.api.nvidia.com/v1/genai"
key_env = "FAULTY_KEY"
models = ["{SCHNELL}"]
timeout_s = 5
[router.audio]
url = "{site}/{MAGPIE}/v1/audio"
asr_url = "{site}/{PARAKEET}/v1/audio"
key_env = "FAULTY_KEY"
timeout_s = 5
[providers.spare]
kind = "nvidia"
base_url = "{site}/integrate.api.nvidia.com/v1"
ai_url = "{site}/ai.api.nvidia.com/v1"
key_env = "SPARE_KEY"
per_minute = 1000000
burst = 1000000
models = [
  "{LLAMA}",
  {{ id = "{E5}", modality = "embed" }},
  {{ id = "{RERANK}", modality = "rerank" }},
  {{ id = "{SCHNELL}", modality = "image" }},
]
"""
HELLO = {"model": LLAMA, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 32}
SHORT_SOUND = riff(tone(440, 0.25, 16000), 16000)
CALLER_S = 120.0  # a call that takes longer hangs
# weight, path, JSON body (None: the form with a sound)
MIX: dict[str, tuple[int, str, dict[str, Any] | None]] = {
    "chat": (40, "/v1/chat/completions", HELLO),
    "stream": (28, "/v1/chat/completions", {**HELLO, "stream": True}),
    "embeddings": (12, "/v1/embeddings", {"model": E5, "input": "hello"}),
    "rerank": (6, "/v1/rerank", {"model": RERANK, "query": "red", "documents": ["a", "red"]}),
    "image": (4, f"/v1/genai/{SCHNELL}", {"prompt": "a red cube", "width": 768, "height": 768}),
    "speech": (5, "/v1/audio/synthesize", {"text": "hello", "voice": "Magpie-Multilingual.EN-US.Aria"}),
    "transcription": (5, "/v1/audio/transcriptions", None),
}


@dataclass
class Tally:
    """What became of the calls; `unexplained` says in words what no caller could understand."""

    answered: int = 0
    errors: int = 0
    seconds: list[float] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    codes: collections.Counter[str] = field(default_factory=collections.Counter)


def main() -> None:
    """Measure, print a summary and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--faults", type=float, default=0.05, help="share of the calls that meet a fault")
    parser.add_argument("--probes", type=int, default=200, help="calls by which the added latency is measured")
    options = parser.parse_args()
    figures, tally = measured(options.calls, options.concurrency, options.faults, options.probes)
    print(f"errors: {dict(tally.codes.most_common())}")
    for one in tally.unexplained[:10]:
        print(f"unexplained: {one}")
    print(json.dumps(figures))


def measured(calls: int, concurrency: int, faults: float, probes: int) -> tuple[dict[str, float], Tally]:
    """The figures of one run, and the tally that they were made of."""
    with tempfile.TemporaryDirectory() as folder, simulator() as site, hub(Path(folder), site) as (url, pid):
        for kind, share in FAULTS.items():
            order(site, "POST", {"kind": kind, "rate": share * faults, "key": FAULTY})
        tally, middle_mb, took = asyncio.run(driven(url, pid, calls, concurrency))
        end_mb, once = resident_mb(pid), recorded_once(url, calls)
        order(site, "DELETE", None)
        added = asyncio.run(added_ms(url, site, probes))
    milliseconds = sorted(1000 * one for one in tally.seconds)
    return {
        "calls": calls,
        "answered": tally.answered,
        "errors": tally.errors,
        "unexplained": len(tally.unexplained),
        "recorded_once": once,
        "rss_mid_mb": round(middle_mb, 1),
        "rss_end_mb": round(end_mb, 1),
        "p50_ms": round(statistics.median(milliseconds), 1),
        "p99_ms": round(milliseconds[int(0.99 * len(milliseconds))], 1),
        "calls_per_s": round(calls / took, 1),
        "added_latency_p50_ms": round(added, 2),
    }, tally


async def driven(url: str, pid: int, calls: int, concurrency: int) -> tuple[Tally, float, float]:
    """All calls, `concurrency` at a time: what became of them, the hub's memory after half of them, and seconds."""
    draw, tally, middle = random.Random(1), Tally(), [0.0]
    kinds = draw.choices(list(MIX), [weight for weight, _, _ in MIX.values()], k=calls)
    waiting = iter(enumerate(kinds))
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def caller() -> None:
            for number, kind in waiting:
                if number == calls // 2:
                    middle[0] = resident_mb(pid)
                began = time.perf_counter()
                await judged(session, kind, f"bench-{number}", tally)
                tally.seconds.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        return tally, middle[0], time.perf_counter() - began


async def judged(session: aiohttp.ClientSession, kind: str, id: str, tally: Tally) -> None:
    """One call, counted as an answer, as one clear error, or as unexplained."""
    try:
        async with asyncio.timeout(CALLER_S):
            status, media, raw = await asked(session, kind, id)
    except aiohttp.ClientPayloadError:
        tally.errors += 1  # cut short, which the caller's client sees
        tally.codes["cut"] += 1
        return
    except (aiohttp.ClientError, TimeoutError) as error:
        tally.unexplained.append(f"{id} {kind}: {type(error).__name__}")
        return
    code = error_code(status, media, raw)
    if code is not None:
        tally.errors += 1
        tally.codes[code] += 1
    elif status == 200 and whole(kind, raw):
        tally.answered += 1
    else:
        tally.unexplained.append(f"{id} {kind}: {status} {media} {raw[:80]!r}")


async def asked(session: aiohttp.ClientSession, kind: str, id: str) -> tuple[int, str, bytes]:
    """Status, media type and body."""
    _, path, body = MIX[kind]
    sent: Any = None
    if body is None:
        sent = aiohttp.FormData()
        sent.add_field("file", SHORT_SOUND, filename="clip.wav", content_type="audio/wav")
    async with session.post(path, json=body, data=sent, headers={"x-request-id": id}) as reply:
        return reply.status, reply.content_type, await reply.read()


def error_code(status: int, media: str, raw: bytes) -> str | None:
    """The code of one clear error: of an error answer, or of the event that ends a broken stream."""
    last = raw.strip().rpartition(b"\n\n")[2].removeprefix(b"data: ") if media == "text/event-stream" else raw if status >= 400 else b""
    try:
        found = json.loads(last).get("error")
    except (ValueError, AttributeError):
        return None
    return str(found.get("code") or found.get("type")) if isinstance(found, dict) else None


def whole(kind: str, raw: bytes) -> bool:
    """Whether it is an answer from beginning to end."""
    if kind == "stream":
        return raw.endswith(b"data: [DONE]\n\n")
    if kind == "speech":
        return raw[:4] == b"RIFF" and len(raw) == 8 + int.from_bytes(raw[4:8], "little")
    try:
        return isinstance(json.loads(raw), dict)
    except ValueError:
        return False


def recorded_once(url: str, calls: int) -> int:
    """How many of the calls have exactly one record; waits until there are as many records as calls."""
    give_up = time.monotonic() + 20
    while True:
        counts = collections.Counter(id for id in recorded(url) if id.startswith("bench-"))
        if counts.total() >= calls or time.monotonic() > give_up:
            return sum(count == 1 for count in counts.values())
        time.sleep(0.2)


def recorded(url: str) -> Iterator[str]:
    """The ids of all calls that the hub has a record of, the newest first."""
    opener, before = urllib.request.build_opener(urllib.request.ProxyHandler({})), ""
    while True:
        with opener.open(f"{url}/v1/calls?limit=1000{before}", timeout=60) as reply:
            page = json.load(reply)["data"]
        if not page:
            return
        yield from (call["id"] for call in page)
        before = f"&before={page[-1]['number']}"


async def added_ms(url: str, site: str, probes: int) -> float:
    """The median of a small chat call through the hub, less that of the same call straight to the simulator; taken in turns."""
    taken: dict[str, list[float]] = {url: [], f"{site}/integrate.api.nvidia.com": []}
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {SPARE}"}) as session:
        for number in range(probes + 10):
            for base, seconds in taken.items():
                began = time.perf_counter()
                async with session.post(f"{base}/v1/chat/completions", json=HELLO) as reply:
                    await reply.read()
                if number >= 10:
                    seconds.append(time.perf_counter() - began)
    through, direct = (1000 * statistics.median(seconds) for seconds in taken.values())
    return through - direct


@contextmanager
def simulator() -> Iterator[str]:
    """A simulator process without rate limits; yields its base URL."""
    port = free_port()
    arguments = ["simulate", "nvidia", "--port", str(port), "--rpm", "0", "--key", FAULTY, "--key", SPARE]
    with process(arguments, f"http://127.0.0.1:{port}/simulator") as _:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def hub(folder: Path, site: str) -> Iterator[tuple[str, int]]:
    """A hub process in front of it; yields its base URL and process id."""
    port, file = free_port(), folder / "hub.toml"
    file.write_text(SETTINGS.format(site=site, **{name: text for name, text in globals().items() if isinstance(text, str)}), "utf-8")
    arguments = ["serve", "--port", str(port), "--settings", str(file), "--data-dir", str(folder)]
    with process(arguments, f"http://127.0.0.1:{port}/healthz", FAULTY_KEY=FAULTY, SPARE_KEY=SPARE) as pid:
        yield f"http://127.0.0.1:{port}", pid


@contextmanager
def process(arguments: list[str], ready: str, **environment: str) -> Iterator[int]:
    """A `sensorium` process, from when it answers at `ready` until the end of the block; yields its id."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("MAC_")}
    command = [sys.executable, "-m", "sensorium.cli", *arguments]
    running = subprocess.Popen(command, env=kept | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 120
        while not answers(ready):
            if running.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"sensorium {arguments[0]} does not answer")
            time.sleep(0.05)
        yield running.pid
    finally:
        running.terminate()
        running.wait(60)


def answers(url: str) -> bool:
    """Whether a GET is answered."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5):
            return True
    except (OSError, ValueError):
        return False


def order(site: str, method: str, fault: dict[str, Any] | None) -> None:
    """Tell the simulator which faults there are."""
    body = None if fault is None else json.dumps(fault).encode()
    request = urllib.request.Request(f"{site}/simulator/faults", body, {"content-type": "application/json"}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60):
        pass


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout) * 1024 / 1e6


if __name__ == "__main__":
    main()
