"""The simulated service as one ASGI app: every host by path prefix or Host header, one answer per request, and a note of what came.

It does not know how it is served, and never calls out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from sensorium.errors import BodyTooLarge, Cancelled, SensoriumError
from sensorium.exchange import Receive, Send
from sensorium.simulators.nvidia.auth import Auth
from sensorium.simulators.nvidia.call import Call, Manner, Sleep
from sensorium.simulators.nvidia.catalog import MODELS, NVCF, Catalog
from sensorium.simulators.nvidia.control import Control, Seen
from sensorium.simulators.nvidia.faults import HEADER, Faults, mannered
from sensorium.simulators.nvidia.gateway import TOO_LARGE, Gateway
from sensorium.simulators.nvidia.hosts import CONTROL, FUNCTIONS, NIM, S3
from sensorium.simulators.nvidia.invocation import Invocation
from sensorium.simulators.nvidia.limits import Limits
from sensorium.simulators.nvidia.nim import Nim
from sensorium.simulators.nvidia.nvcf import Nvcf
from sensorium.simulators.nvidia.options import Options
from sensorium.simulators.nvidia.replies import gateway_error, plain
from sensorium.simulators.nvidia.storage import Storage
from sensorium.simulators.replies import Refused, Reply, json_reply

READ_CAP = 256 * 1024 * 1024  # what is read of a body on hosts that set no cap themselves
REMEMBERED = 200
Answer = Callable[[Call, bytes], Awaitable[Reply]]
log = logging.getLogger("sensorium.simulator")


class Simulator:
    """The ASGI app. `now` is in seconds since the epoch. `seen` holds the latest calls, `counters` what became of them."""

    def __init__(self, options: Options | None = None, now: Callable[[], float] = time.time, sleep: Sleep = asyncio.sleep) -> None:
        options = options or Options()
        self.catalog = Catalog(replace(model, pexec=model.pexec or model.name in options.pexec) for model in MODELS)
        self._faults = Faults(options.faults, options.seed)
        self._sleep = sleep
        storage = Storage(now)
        limits = Limits(options.rpm, options.caps, now)
        invocation = Invocation(Auth(options.keys), limits, self._faults, storage, options.work_s, options.seed, now, sleep)
        self.counters: Counter[str] = invocation.counters
        self.seen: deque[Seen] = deque(maxlen=REMEMBERED)
        nvcf = Nvcf(self.catalog, invocation, storage)
        self._gateway = Gateway(self.catalog, invocation, self._faults, now).answer
        self._hosts: dict[str, Answer] = {
            NVCF: nvcf.api,
            FUNCTIONS: nvcf.function,
            S3: storage.presigned,
            NIM: Nim(self.catalog, self._faults, options.seed, now).answer,
            CONTROL: Control(self._faults, self.counters, self.seen).answer,
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call = Call(scope, receive, send)
        try:
            body = await call.body(READ_CAP)
            await call.attended(self._serve(call, body))
        except Cancelled:
            self.counters["callers who left"] += 1
        except BodyTooLarge:
            await self._deliver(call, gateway_error(TOO_LARGE, "invalid_image_format"))
        except SensoriumError as error:
            await self._deliver(call, json_reply({"error": error.message}, error.status))
        except Exception:  # outermost: a fault of the simulator's own must not look like one that was ordered
            log.exception("%s %s failed", call.method, call.path[:200])
            if not call.status:
                await self._deliver(call, plain(500, "the simulator itself failed; its log has the details"))

    async def _serve(self, call: Call, body: bytes) -> None:
        try:
            reply = await self._hosts.get(call.place.host, self._gateway)(call, body)
        except Refused as refused:
            reply = refused.reply
        if call.place.host == CONTROL:
            await self._deliver(call, reply)
            return
        fault = self._faults.pick("delivery", call.header(HEADER), call.model, call.key)
        reply, manner = mannered(fault, reply)
        self.counters[f"answered {reply.status}"] += 1
        self.seen.append(Seen.of(call, body, reply.status))
        await call.deliver(reply, manner, self._sleep)

    async def _deliver(self, call: Call, reply: Reply) -> None:
        await call.deliver(reply, Manner(), self._sleep)
