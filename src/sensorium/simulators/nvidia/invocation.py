"""The invocation service behind every host: key, rate limit, the worker's two modes, polling, large results (section 6).

Guesses: replies that no worker made (dialect A) carry no nvcf-* headers, since no request exists yet; validation costs no work time;
the words of the 400 for an id that is no UUID; what the extra files of a large result hold.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sensorium.simulators.nvidia import container
from sensorium.simulators.nvidia.ask import Ask
from sensorium.simulators.nvidia.auth import Auth
from sensorium.simulators.nvidia.call import Call, Sleep
from sensorium.simulators.nvidia.catalog import NVCF, Model
from sensorium.simulators.nvidia.faults import HEADER, Fault, Faults, spoiled
from sensorium.simulators.nvidia.incidents import INCIDENTS
from sensorium.simulators.nvidia.jobs import DEFAULT_POLL_S, GATEWAY_POLL_S, PASS_GRACE_S, Jobs, poll_seconds
from sensorium.simulators.nvidia.limits import Limits
from sensorium.simulators.nvidia.replies import dialect_d, problem
from sensorium.simulators.nvidia.storage import Storage, packed
from sensorium.simulators.replies import Refused, Reply

INLINE_BYTES = 5 * 1024 * 1024
EXTRA = {"logs/worker.log": b"simulated\n"}
HOSTILE = {"../escaped.txt": b"simulated\n"}
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Terms:
    """How a host has a model called: seconds that it polls by default, compatibility mode or pass-through, whether assets count."""

    poll_s: int
    compatible: bool = False
    assets: bool = True


class Invocation:
    """Calls functions. `work_s` is how long each model works, by name or `*`."""

    def __init__(
        self,
        auth: Auth,
        limits: Limits,
        faults: Faults,
        storage: Storage,
        work_s: Mapping[str, float],
        seed: int,
        now: Callable[[], float],
        sleep: Sleep,
    ) -> None:
        self.auth, self._limits, self._faults, self._storage = auth, limits, faults, storage
        self._work_s, self._draw, self._now, self._sleep = work_s, random.Random(seed), now, sleep
        self.counters: Counter[str] = Counter()
        self._jobs = Jobs(now, self.counters)

    async def invoke(self, call: Call, body: bytes, model: Model, path: str, terms: Terms) -> Reply:
        """Call the function of `model` at `path` of its container. A caller that leaves cancels the job. Raises Refused."""
        call.model = model.name
        key = self.auth.caller(call, model)
        self._limits.take(key, model.name)
        ordered = call.header(HEADER)
        self._refuse(self._faults.pick("service", ordered, model.name, key), model)
        if model.always:
            raise Refused(INCIDENTS[model.always].answer(model))
        wait = poll_seconds(call.header("nvcf-poll-seconds"), terms.poll_s)
        assets = self._storage.referenced(call.header("nvcf-input-asset-references")) if terms.assets else {}
        twist = self._faults.pick("result", ordered, model.name, key)
        ask = self._ask(call, body, model, path, assets, twist)
        spoil = self._faults.pick("spoil", ordered, model.name, key)
        slow = self._faults.pick("work", ordered, model.name, key)
        self.counters["invoked"] += 1
        try:
            reply = await asyncio.to_thread(container.answer, ask)
            if terms.compatible:
                reply = self._compatible(call, ask, reply)
            reply = spoiled(spoil.kind, reply, self._draw) if spoil else reply
            work = self._work(slow, model) if reply.status < 400 else 0.0
            return await self._first(call, ask, reply, work, wait, terms)
        except asyncio.CancelledError:
            self.counters["cancelled by the caller"] += 1
            raise

    async def poll(self, call: Call, id: str) -> Reply:
        """Poll a job (6.3). Raises Refused."""
        key = self.auth.member(call)
        wait = poll_seconds(call.header("nvcf-poll-seconds"), DEFAULT_POLL_S if call.place.host == NVCF else GATEWAY_POLL_S)
        if self._faults.pick("poll", call.header(HEADER), "", key):
            raise Refused(_stamped(problem(504, "worker did not acknowledge the status request."), id))
        try:
            wanted = str(uuid.UUID(id))
        except ValueError:
            raise Refused(problem(400, f"failed to parse request id: {id[:60]}")) from None
        job = self._jobs.find(wanted, call.place.host)
        now = self._now()
        until, percent = job.next(now, wait)
        await self._sleep(until - now)
        if percent is None and until >= job.ready_at:
            self._jobs.fetched(job)
            return _stamped(job.reply, job.id)
        job.told_at = until
        return _stamped(_pending(percent), job.id)

    def _refuse(self, fault: Fault | None, model: Model) -> None:
        if fault:
            raise Refused(INCIDENTS[fault.kind].answer(model))

    def _ask(self, call: Call, body: bytes, model: Model, path: str, assets: Mapping[str, bytes], twist: Fault | None) -> Ask:
        return Ask(
            model=model,
            method=call.method,
            path=path,
            body=body,
            id=str(uuid.UUID(int=self._draw.getrandbits(128), version=4)),
            now=self._now(),
            draw=random.Random(self._draw.random()),
            content_type=call.header("content-type"),
            assets=assets,
            twist=twist.kind if twist else "",
        )

    def _compatible(self, call: Call, ask: Ask, reply: Reply) -> Reply:
        """Compatibility mode: errors are rewritten, large results and extra files go through storage (6.2, 6.4)."""
        if reply.status >= 400:
            return dialect_d(reply)
        files = {**reply.files, **{"zip": EXTRA, "hostile-zip": HOSTILE}.get(ask.twist, {})}
        if not files and len(reply.body) <= INLINE_BYTES:
            return reply
        url = self._storage.offer(call.origin, packed({f"{ask.id}.response": reply.body, **files}))
        return Reply(302, headers={"location": url})

    def _work(self, fault: Fault | None, model: Model) -> float:
        if fault:
            return NEVER if fault.kind == "no-worker" else fault.seconds
        return self._work_s.get(model.name, self._work_s.get("*", 0.0))

    async def _first(self, call: Call, ask: Ask, reply: Reply, work: float, wait: int, terms: Terms) -> Reply:
        """The answer to the initial request: the result, 202, or 504."""
        late = work > wait
        passing = not terms.compatible or work == NEVER
        await self._sleep((wait + PASS_GRACE_S if passing else wait) if late else work)
        if not late:
            return _stamped(reply, ask.id)
        if passing:
            self.counters["cancelled by 504"] += 1
            return _stamped(Reply(504), ask.id)
        self._jobs.add(ask.id, call.place.host, reply, ask.now, work, wait, ask.model.kind == "video")
        return _stamped(_pending(None), ask.id)


def _pending(percent: int | None) -> Reply:
    if percent is None:
        return Reply(202)
    return Reply(202, b"null", {"content-type": "application/json", "nvcf-percent-complete": str(percent)})


def _stamped(reply: Reply, id: str) -> Reply:
    """The headers of 4.3; the status word follows from the code alone."""
    word = "in-progress" if reply.status == 202 else "fulfilled" if reply.status < 400 else "errored"
    said = {"nvcf-reqid": id, "nvcf-status": word, "access-control-expose-headers": "nvcf-reqid"}
    return replace(reply, headers={**reply.headers, **said})
