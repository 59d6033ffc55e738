"""How much memory of the hub a large picture takes: in a chat call on its way up, and in a drawing on its way down.

    python bench/memory.py [--calls 16] [--megabytes 5]

A hub process relays several calls at once to a provider in this process, which holds every answer until all calls have arrived. Peak
resident memory above that of the resting hub, per call, in multiples of the body. Needs Linux. The last line is JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder: its queue.py would hide the standard library's

import argparse
import asyncio
import io
import json
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from bench.hosted import free_port, process

MB = 1_000_000
SETTINGS = """
[local]
enabled = false
[providers.talk]
kind = "openai"
base_url = "{at}/v1"
models = [{{ id = "talker", vision = true }}]
[providers.paint]
kind = "genai"
base_url = "{at}/v1/genai"
models = [{{ id = "org/painter", modality = "image" }}]
"""


class Provider:
    """Holds every call until all that are expected have arrived, then answers; chat in a word, genai with a picture of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._picture = b'{"artifacts":[{"base64":"/9j/%s","finishReason":"SUCCESS","seed":1}]}' % (b"A" * size)
        self.expect(0)

    def expect(self, calls: int) -> None:
        """So many calls are answered together."""
        self._missing, self._together = calls, asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        """One call."""
        await request.read()
        self._missing -= 1
        if not self._missing:
            self._together.set()
        await self._together.wait()
        chat = request.path.endswith("completions")
        return web.Response(body=b'{"choices":[]}' if chat else self._picture, content_type="application/json")

    @asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        """On this port of this machine."""
        app = web.Application(client_max_size=1024 * MB)
        app.router.add_post("/{any:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=16)
    parser.add_argument("--megabytes", type=float, default=5.0)
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("peak memory is read from /proc, which this system lacks")
    print(json.dumps(measured(options.calls, round(options.megabytes * MB))))


def measured(calls: int, size: int) -> dict[str, float]:
    """Peak growth per call in multiples of `size` bytes, for a chat call with a picture and for a drawing, each in a hub of its own."""
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/" + "A" * size}}]
    chat = json.dumps({"model": "talker", "messages": [{"role": "user", "content": parts}]}).encode()
    times = {
        "chat_times": grown_mb(calls, size, "/v1/chat/completions", chat) * MB / size / calls,
        "image_times": grown_mb(calls, size, "/v1/genai/org/painter", b'{"prompt":"a red cube"}') * MB / size / calls,
    }
    return {"calls": calls, "body_mb": size / MB, **{name: round(figure, 2) for name, figure in times.items()}}


def grown_mb(calls: int, size: int, path: str, body: bytes) -> float:
    """MB by which a new hub grows for all calls together."""
    port, at = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "hub.toml")
        file.write_text(SETTINGS.format(at=f"http://127.0.0.1:{at}"), "utf-8")
        base = f"http://127.0.0.1:{port}"
        arguments = ["serve", "--port", str(port), "--settings", str(file), "--data-dir", folder]
        with process(arguments, f"{base}/healthz") as pid:
            return asyncio.run(grown(pid, base, at, calls, size, path, body))


async def grown(pid: int, base: str, at: int, calls: int, size: int, path: str, body: bytes) -> float:
    """The same, for a hub that runs."""
    provider = Provider(size)
    async with provider.serving(at), aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=0)) as session:
        await together(session, 1, "/v1/chat/completions", b'{"model":"talker","messages":[{}]}', provider)  # what the first call loads
        return await growth(pid, together(session, calls, path, body, provider))


async def growth(pid: int, work: Awaitable[None]) -> float:
    """MB between the hub's resident memory now and its peak until `work` is done."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")  # the peak starts from here
    before = status_mb(pid, "VmRSS")
    await work
    return status_mb(pid, "VmHWM") - before


async def together(session: aiohttp.ClientSession, calls: int, path: str, body: bytes, provider: Provider) -> None:
    """So many calls at once, which all must be answered."""
    provider.expect(calls)

    async def one() -> None:
        async with session.post(path, data=io.BytesIO(body), headers={"content-type": "application/json"}) as reply:
            await reply.read()
            if reply.status != 200:
                raise SystemExit(f"POST {path} answered {reply.status}")

    await asyncio.gather(*(one() for _ in range(calls)))


def status_mb(pid: int, name: str) -> float:
    """A line of the process's status, in MB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"), re.M)
    if found is None:
        raise SystemExit(f"/proc tells no {name}")
    return int(found[1]) * 1024 / MB


if __name__ == "__main__":
    main()
