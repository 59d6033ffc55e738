"""Local containers as a host of their own (section 11): `/nim/<org>/<model>/v1/...` is that model's container, without keys and limits."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable

from sensorium.simulators.nvidia import container, local
from sensorium.simulators.nvidia.ask import Ask
from sensorium.simulators.nvidia.call import Call
from sensorium.simulators.nvidia.catalog import Catalog
from sensorium.simulators.nvidia.faults import HEADER, Faults, spoiled
from sensorium.simulators.nvidia.replies import detail
from sensorium.simulators.replies import Refused, Reply


class Nim:
    """Answers below /nim."""

    def __init__(self, catalog: Catalog, faults: Faults, seed: int, now: Callable[[], float]) -> None:
        self._catalog, self._faults, self._draw, self._now = catalog, faults, random.Random(seed), now

    async def answer(self, call: Call, body: bytes) -> Reply:
        """Any call of a local container. Raises Refused."""
        name, _, rest = call.place.path.removeprefix("/").partition("/v1/")
        model = self._catalog.container(name)
        if model is None:
            raise Refused(detail(404, "Not Found"))
        call.model = name
        ordered = call.header(HEADER)
        if self._faults.pick("container", ordered, name):
            return local.not_ready()
        twist = self._faults.pick("result", ordered, name)
        ask = Ask(
            model=model,
            method=call.method,
            path=f"/v1/{rest}",
            body=body,
            id=str(uuid.UUID(int=self._draw.getrandbits(128), version=4)),
            now=self._now(),
            draw=random.Random(self._draw.random()),
            content_type=call.header("content-type"),
            hosted=False,
            twist=twist.kind if twist else "",
        )
        reply = await asyncio.to_thread(container.answer, ask)
        spoil = self._faults.pick("spoil", ordered, name)
        return spoiled(spoil.kind, reply, self._draw) if spoil else reply
