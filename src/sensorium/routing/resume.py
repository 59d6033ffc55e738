"""Hosted jobs that outlive the hub: what is kept of each on disk, and how the next run takes it up instead of paying again.

A resumption lies around the calls of one run of a request (`under_resumption`), as its origin and its terms do. The jobs of a run are
told apart by the number of the call that began them: a run does the same calls in the same order as the one before it. Where it does not,
or where the provider is another one now, the job is left alone and the call runs anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from sensorium.errors import SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Call, Reply, Route
from sensorium.store.database import StoreUnavailable

Kind = Literal["nvcf", "fal"]
log = logging.getLogger("sensorium.hub")


@dataclass(frozen=True, slots=True)
class Handle:
    """A job at a provider: its id there, the addresses where it is asked for, and the key it was begun with, by name and version.

    `answer_by` (seconds since the epoch; None: no limit) is when the provider gives it up unless somebody asks, as of the beginning: every
    poll since has moved that, so nothing is decided by it. It tells whoever looks at the row.
    """

    kind: Kind
    id: str
    urls: dict[str, str]
    secret: str | None
    version: int
    answer_by: float | None


@dataclass(slots=True)
class _Kept:
    """What is kept of one call: how it looked, its route, and the jobs that it has become so far."""

    call: str
    provider: str
    upstream: str
    handles: list[Handle]


class Resumption:
    """The hosted jobs of one run of a request.

    `state` is what the run before it kept, JSON throughout (None or {}: nothing); `keep` has the whole state on disk when it returns.
    `say` is told in words what is taken up or given up. `detached()` says of a run that is being cancelled that its request is not: its
    jobs are then left to go on, for the run that takes them up.
    """

    def __init__(
        self,
        state: Mapping[str, Any] | None,
        keep: Callable[[dict[str, Any]], Awaitable[None]],
        say: Callable[[str], None] = log.info,
        detached: Callable[[], bool] = lambda: False,
    ) -> None:
        self.detached, self.say = detached, say
        self._keep = keep
        self._calls = 0
        self._writing = asyncio.Lock()
        self._later: set[asyncio.Task[None]] = set()
        try:
            self._kept = msgspec.convert(dict(state or {}), dict[str, _Kept])
        except msgspec.ValidationError:
            say("what an earlier run kept cannot be read; the calls run anew")
            self._kept = {}

    @property
    def state(self) -> dict[str, Any]:
        """What is to be kept for the next run; {} when it has nothing to take up."""
        state: dict[str, Any] = msgspec.to_builtins(self._kept)
        return state

    async def write(self) -> None:
        """Have the state on disk. A disk that cannot be written now loses the job to a crash, not to this run."""
        async with self._writing:  # or an older state could be written last
            try:
                await self._keep(self.state)
            except StoreUnavailable as error:
                log.warning("a hosted job goes on, but cannot be kept: %s", error.message)

    def write_later(self) -> None:
        """The same, for who cannot wait. When the run is over by then, it is too late, and harmless."""
        task = asyncio.create_task(self.write())
        self._later.add(task)
        task.add_done_callback(self._later.discard)


class Place:
    """One call of the run."""

    def __init__(self, resumption: Resumption, call: Call) -> None:
        self.resumption, self._call = resumption, f"{call.modality} {call.model} {call.operation}"
        self._key, self._at = str(resumption._calls), 0
        resumption._calls += 1

    @property
    def holds(self) -> bool:
        """Whether a job is kept that goes on, or may."""
        return self._key in self.resumption._kept

    async def taken(self, routes: Sequence[Route]) -> Route | None:
        """The route whose job is to be taken up; None when there is none, or no such route any more."""
        kept = self.resumption._kept.get(self._key)
        if kept is None:
            return None
        if kept.call == self._call:
            for route in routes:
                if (route.provider.name, route.upstream) == (kept.provider, kept.upstream):
                    return route
        self.resumption.say(f"the job begun at {kept.provider} for {kept.upstream} is given up: this call does not go there any more")
        del self.resumption._kept[self._key]
        await self.resumption.write()
        return None

    def hold(self, route: Route, kind: Kind) -> Hold:
        """The next job of this call on `route`: one to take up, or one to begin."""
        kept, handle = self.resumption._kept.get(self._key), None
        if kept is not None and (kept.provider, kept.upstream) == (route.provider.name, route.upstream) and self._at < len(kept.handles):
            found = kept.handles[self._at]
            handle = found if found.kind == kind else None
        if handle is not None:
            self._at += 1
        return Hold(self, route, handle)

    def _add(self, route: Route, handle: Handle) -> None:
        kept = self.resumption._kept.get(self._key)
        if kept is None or (kept.provider, kept.upstream) != (route.provider.name, route.upstream):
            kept, self._at = _Kept(self._call, route.provider.name, route.upstream, []), 0
            self.resumption._kept[self._key] = kept
        kept.handles[self._at :] = [handle]
        self._at += 1

    def _remove(self, handle: Handle) -> None:
        kept = self.resumption._kept.get(self._key)
        if kept is not None and handle in kept.handles:
            kept.handles.remove(handle)
            self._at = max(0, self._at - 1)
            if not kept.handles:
                del self.resumption._kept[self._key]


class Hold:
    """One job of a call: `handle` once it is known, to be taken up where it is there from the beginning."""

    def __init__(self, place: Place, route: Route, handle: Handle | None) -> None:
        self.handle = handle
        self._place, self._route = place, route
        credential = route.provider.credential
        self._key = credential.name, credential.version()
        if handle is not None:
            other = "" if (handle.secret, handle.version) == self._key else "; its key is another one by now"
            place.resumption.say(f"the job {handle.id} is taken up again at {route.provider.name}{other}")

    @property
    def detached(self) -> bool:
        """Whether the run ends and the job shall go on."""
        return self._place.resumption.detached() and self.handle is not None

    async def keep(self, kind: Kind, id: str, urls: dict[str, str], answer_by: float | None = None) -> None:
        """The job is known now: on disk when this returns."""
        handle = Handle(kind, id, urls, *self._key, answer_by)
        self._place._add(self._route, handle)
        await self._place.resumption.write()
        self.handle = handle

    async def drop(self, why: str) -> None:
        """There is nothing to take up any more."""
        handle, self.handle = self.handle, None
        if handle is not None:
            self._place.resumption.say(f"the job {handle.id} at {self._route.provider.name} is given up: {why}")
            self._place._remove(handle)
            await self._place.resumption.write()

    def forget(self) -> None:
        """As `drop`, when there is no time to wait for the disk: the call is being cancelled."""
        if self.handle is not None:
            self._place._remove(self.handle)
            self.handle = None
            self._place.resumption.write_later()


_RESUMPTION: ContextVar[Resumption | None] = ContextVar("resumption", default=None)
_PLACE: ContextVar[Place | None] = ContextVar("place", default=None)


@contextmanager
def under_resumption(resumption: Resumption) -> Iterator[Resumption]:
    """The hosted jobs of every call that is made inside, also by tasks that begin inside, are kept and taken up by `resumption`."""
    token = _RESUMPTION.set(resumption)
    try:
        yield resumption
    finally:
        _RESUMPTION.reset(token)


@contextmanager
def begun(call: Call) -> Iterator[None]:
    """What is sent inside is sent for `call`, the next one of its run. Without a resumption nothing is kept."""
    resumption = _RESUMPTION.get()
    token = _PLACE.set(None if resumption is None else Place(resumption, call))
    try:
        yield
    finally:
        _PLACE.reset(token)


def place() -> Place | None:
    """The call that is under way here, where its jobs are kept."""
    return _PLACE.get()


def hold(route: Route, kind: Kind) -> Hold | None:
    """The next job on `route` of the call that is under way here; None where nothing is kept."""
    here = _PLACE.get()
    return None if here is None else here.hold(route, kind)


@asynccontextmanager
async def settling(held: Hold | None) -> AsyncIterator[Callable[[Reply], Awaitable[Reply]]]:
    """Around the work on a job: whatever it ends in, the job is kept exactly if another run could still take it up.

    Yields what the reply is to be passed through.
    """

    async def answered(reply: Reply) -> Reply:
        if held is not None and reply.status >= 400:
            await held.drop(f"it ended with {reply.status}")
        return reply

    try:
        yield answered
    except SensoriumError as error:
        if held is not None and _spent(error):
            await held.drop(error.message)
        raise
    except asyncio.CancelledError:
        if held is not None and not held.detached:
            held.forget()
        raise


def _spent(error: SensoriumError) -> bool:
    """Whether the job is over or unusable. A connection that broke, or a key that cannot be read now, says nothing about it."""
    if isinstance(error, UpstreamRefused):
        return error.lost or error.code == "deadline_exceeded"
    return isinstance(error, UpstreamFailed) and error.cause is None
