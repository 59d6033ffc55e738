"""A simulator in this process, served on loopback, with a clock that only moves when somebody sleeps, and a plain HTTP client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from sensorium.simulators.nvidia.options import Options
from sensorium.simulators.nvidia.server import Simulator
from tests.serving import serving

KEY = "nvapi-simulated"
INTEGRATE, AI, NVCF = "/integrate.api.nvidia.com", "/ai.api.nvidia.com", "/api.nvcf.nvidia.com"
MAGPIE = "/877104f7-e885-42b9-8de8-f6e4c6303969.invocation.api.nvcf.nvidia.com"
PARAKEET = "/1598d209-5e27-4d3c-8079-4751568b1081.invocation.api.nvcf.nvidia.com"
CHAT, SCHNELL = f"{INTEGRATE}/v1/chat/completions", f"{AI}/v1/genai/black-forest-labs/flux.1-schnell"
HELLO = {"model": "meta/llama-3.1-8b-instruct", "messages": [{"role": "user", "content": "hello"}], "stream": False}
CUBE = {"prompt": "a red cube", "width": 768, "height": 768}
BEGIN = 1_790_812_800.0  # 2026-10-01
# a hub's settings in front of it: a URL for each modality, a key by the default name
SETTINGS = f"""
[local]
enabled = false
[router.chat]
url = "{{site}}{INTEGRATE}/v1"
models = ["meta/llama-3.1-8b-instruct"]
[router.embeddings]
url = "{{site}}{INTEGRATE}/v1"
models = ["nvidia/nv-embedqa-e5-v5"]
[router.image]
url = "{{site}}{AI}/v1/genai"
[router.audio]
url = "{{site}}{MAGPIE}/v1/audio"
asr_url = "{{site}}{PARAKEET}/v1/audio"
[router.video]
url = "{{site}}{AI}/v1/cosmos"
"""


class Clock:
    """Seconds since the epoch. Sleeping moves it at once; a held clock lets nobody wake up before it is let go;
    `waiting` are asleep on it."""

    def __init__(self) -> None:
        self.at = BEGIN
        self.held, self.waiting = False, 0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.waiting += 1
        try:
            while self.held:
                await asyncio.sleep(0.005)
        finally:
            self.waiting -= 1
        self.slept.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[Any]:
        """The JSON of all `data:` frames; the closing one stays text."""
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass(frozen=True)
class Site:
    """A running simulator."""

    address: str
    simulator: Simulator
    clock: Clock

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.address, timeout=30)

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str | None] | None = None) -> Answer:
        """One call with the accepted key and a JSON body; a header of None is left out."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        said = {"Authorization": f"Bearer {KEY}", **({"Content-Type": "application/json"} if raw else {}), **(headers or {})}
        connection = self.connect()
        try:
            connection.request(method, path, raw, {name: text for name, text in said.items() if text is not None})
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): text for name, text in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str | None) -> Answer:
        """A POST; underscores in header names become hyphens."""
        return self.call("POST", path, body, {name.replace("_", "-"): text for name, text in headers.items()})

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.call("GET", path, None, {name.replace("_", "-"): text for name, text in headers.items()})


@contextmanager
def running(**options: Any) -> Iterator[Site]:
    """A simulator without a rate limit, unless `options` set one."""
    clock = Clock()
    simulator = Simulator(Options(**{"rpm": 0, **options}), clock.now, clock.sleep)
    with serving(simulator) as base:
        yield Site(base.removeprefix("http://"), simulator, clock)


def eventually(fact: Callable[[], bool]) -> None:
    """Wait until `fact` holds; a bounded wait for what another thread is about to do."""
    give_up = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.005)
