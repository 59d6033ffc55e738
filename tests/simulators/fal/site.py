"""fal's simulator in this process, served on loopback, with a clock that only moves when somebody sleeps, and a plain HTTP client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from PIL import Image

from sensorium.simulators.fal.auth import DEFAULT_KEY
from sensorium.simulators.fal.control import Seen
from sensorium.simulators.fal.faults import Rule
from sensorium.simulators.fal.options import Options
from sensorium.simulators.fal.server import Simulator
from tests.serving import serving
from tests.simulators.site import Answer, Clock

KEY, OTHER_KEY = DEFAULT_KEY, "other-id:other-secret"
QUEUE, RUN = "/queue.fal.run", "/fal.run"
SCHNELL, VLM, LTX = "fal-ai/flux/schnell", "fal-ai/nemotron-diffusion-vlm", "fal-ai/ltx-video"
CUBE = {"prompt": "a red cube", "image_size": {"width": 96, "height": 64}, "seed": 7}


def png(width: int = 5, height: int = 3) -> str:
    """A small picture as a `data:` URL."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass(frozen=True)
class FalSite:
    """A running simulator. `base` is its base URL."""

    base: str
    simulator: Simulator
    clock: Clock

    @property
    def queue(self) -> str:
        return self.base + QUEUE

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, key: str | None = KEY) -> Answer:
        """One call with the accepted key; `path` may be an address that the simulator named."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        said = {**({} if key is None else {"Authorization": f"Key {key}"}), **(headers or {})}
        connection = HTTPConnection(self.base.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path.removeprefix(self.base), raw, said)
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): text for name, text in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def submit(self, app: str = SCHNELL, body: Any = None, **headers: str) -> Any:
        """What a submit answers."""
        answer = self.call("POST", f"{QUEUE}/{app}", CUBE if body is None else body, headers)
        assert answer.status == 200, answer.body
        return answer.json

    def finished(self, app: str, body: Any) -> Answer:
        """The result of a request, once it is there."""
        told = self.submit(app, body)
        self.clock.at += 10
        return self.call("GET", told["response_url"])

    def fault(self, kind: str, **more: Any) -> None:
        self.simulator.faults.add(Rule(kind, **more))

    def seen(self, *, method: str = "", ending: str = "", host: str = "") -> list[Seen]:
        """The calls that fit."""
        return [
            one
            for one in list(self.simulator.seen)
            if one.method.startswith(method) and one.path.endswith(ending) and (not host or one.host == host)
        ]


@contextmanager
def running(**options: Any) -> Iterator[FalSite]:
    """A simulator that accepts two keys."""
    clock = Clock()
    simulator = Simulator(Options(**{"keys": (KEY, OTHER_KEY), **options}), clock.now, clock.sleep)
    with serving(simulator) as base:
        yield FalSite(base, simulator, clock)
