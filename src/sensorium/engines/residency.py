"""Models that do not fit into a device's memory together take turns there: whoever needs one that is not loaded waits until it is.

The least recently used idle model goes first; one that is in use or pinned never goes. Those who wait are served in the order in which
they came: a model that stands in the way of an earlier caller takes no new ones after `patience_s`, until that caller has had its turn.
It knows neither devices nor what a model is. For one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sensorium.errors import SettingsError, Unavailable

PATIENCE_S: Final = 5.0
TRY_AGAIN_S: Final = 30.0
log = logging.getLogger("sensorium.engine")


@dataclass(slots=True, eq=False)
class Entry:
    """A model that can be loaded. `bytes` is an estimate until it was loaded once, then the most that was measured.

    `load` gives the model and what it takes. `unload` gets the model and returns when its memory is free again: it must wait for work
    that callers have left behind. The members from `state` on are the residency's own.
    """

    name: str
    bytes: int
    load: Callable[[], Awaitable[tuple[Any, int]]]
    unload: Callable[[Any], Awaitable[None]]
    pinned: bool = False
    state: Literal["out", "loading", "in", "leaving"] = "out"
    model: Any = None
    users: int = 0
    used_at: float = 0.0
    measured: bool = False

    @property
    def idle(self) -> bool:
        """Whether it may be evicted now."""
        return self.state == "in" and not self.users and not self.pinned


@dataclass(slots=True, eq=False)
class _Waiter:
    """One caller that waits for `entry`. `victims` are the models that must go for it, chosen once."""

    entry: Entry
    since: float
    served: asyncio.Future[None]
    victims: list[Entry] = field(default_factory=list)


class Residency:
    """The models of one device, which may take `budget_bytes` together. `clock` counts seconds."""

    def __init__(self, budget_bytes: int, entries: Iterable[Entry], clock: Callable[[], float], patience_s: float = PATIENCE_S) -> None:
        """Raises SettingsError for models that can never be loaded: too large alone, or beside those that are pinned."""
        self.budget_bytes, self._clock, self._patience_s = budget_bytes, clock, patience_s
        self._entries = {entry.name: entry for entry in entries}
        self._waiting: list[_Waiter] = []
        self._tasks = set[asyncio.Task[None]]()
        problems = [problem for entry in self._entries.values() if (problem := self._never(entry))]
        if problems:
            raise SettingsError(problems)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All models, loaded or not."""
        return tuple(self._entries.values())

    @property
    def used_bytes(self) -> int:
        """What is loaded, being loaded, or not yet gone."""
        return sum(entry.bytes for entry in self._entries.values() if entry.state != "out")

    @asynccontextmanager
    async def held(self, name: str) -> AsyncGenerator[Any, None]:
        """The loaded model, which stays inside. Raises what loading it raises, for all who waited for that very load."""
        entry = self._entries[name]
        if self._free_to(entry):
            entry.users += 1
        else:
            await self._turn(entry)
        try:
            yield entry.model
        finally:
            self._release(entry)

    async def close(self) -> None:
        """Wait for loads and unloads that are under way, and unload everything that is not in use."""
        await asyncio.gather(*self._tasks)
        for entry in self._entries.values():
            if entry.state == "in" and not entry.users:
                await self._leave(entry)

    def _never(self, entry: Entry) -> str | None:
        """Why it can never be loaded, if so."""
        beside = sum(other.bytes for other in self._entries.values() if other.pinned and other is not entry)
        if entry.bytes + beside <= self.budget_bytes:
            return None
        pinned = f" beside pinned models of {_gb(beside)}" if beside else ""
        return f"the model {entry.name} takes {_gb(entry.bytes)}{pinned}, and only {_gb(self.budget_bytes)} may be used"

    def _free_to(self, entry: Entry) -> bool:
        """Whether a new caller gets the model at once: it is loaded and in the way of nobody who has waited long enough."""
        return entry.state == "in" and not self._in_the_way(entry, self._waiting)

    def _in_the_way(self, entry: Entry, earlier: Iterable[_Waiter]) -> bool:
        now = self._clock()
        return any(entry in waiter.victims and now - waiter.since >= self._patience_s for waiter in earlier)

    async def _turn(self, entry: Entry) -> None:
        """Wait until the model is loaded and this caller counts among its users."""
        waiter = _Waiter(entry, self._clock(), asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._serve()
        try:
            await waiter.served
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._serve()
            elif waiter.served.exception() is None:
                self._release(entry)
            raise

    def _release(self, entry: Entry) -> None:
        entry.users -= 1
        entry.used_at = self._clock()
        self._serve()

    def _serve(self) -> None:
        """Give loaded models to those who wait, in their order; begin what the first one needs for whom there is none."""
        earlier: list[_Waiter] = []
        for waiter in list(self._waiting):
            entry = waiter.entry
            if waiter.served.done():
                continue  # cancelled, and not yet gone
            if entry.state == "in" and not self._in_the_way(entry, earlier):
                self._waiting.remove(waiter)
                entry.users += 1
                waiter.served.set_result(None)
                continue
            if not earlier and entry.state == "out":
                self._make_way(waiter)
            if not waiter.served.done():
                earlier.append(waiter)

    def _make_way(self, waiter: _Waiter) -> None:
        """Load the waiter's model if there is room; else evict what is idle of the models that must go for it."""
        entry = waiter.entry
        if (never := self._never(entry)) is not None:  # since sizes were measured
            self._fail(entry, Unavailable(never, code="out_of_memory", retry_after=TRY_AGAIN_S))
            return
        if self.used_bytes + entry.bytes <= self.budget_bytes:
            self._begin(entry, "loading", self._load(entry))
            return
        # Chosen once: a choice that followed the order of use would let busy models change places in it for ever.
        if not self._enough(waiter.victims, entry):
            waiter.victims = self._victims(entry)
        for victim in waiter.victims:
            if victim.idle:
                self._begin(victim, "leaving", self._leave(victim))

    def _enough(self, victims: list[Entry], entry: Entry) -> bool:
        freed = sum(victim.bytes for victim in victims if victim.state != "out")
        return self.used_bytes - freed + entry.bytes <= self.budget_bytes

    def _victims(self, entry: Entry) -> list[Entry]:
        """The models that make room enough: those already on their way out, then idle ones, then the least recently used."""
        there = [other for other in self._entries.values() if other.state != "out" and not other.pinned and other is not entry]
        there.sort(key=lambda other: (other.state != "leaving", other.users > 0 or other.state == "loading", other.used_at))
        chosen: list[Entry] = []
        while there and not self._enough(chosen, entry):
            chosen.append(there.pop(0))
        for spare in list(chosen):  # a large one that came late may have made the first ones needless
            rest = [other for other in chosen if other is not spare]
            chosen = rest if self._enough(rest, entry) else chosen
        return chosen

    def _begin(self, entry: Entry, state: Literal["loading", "leaving"], work: Any) -> None:
        entry.state = state
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, entry: Entry) -> None:
        try:
            entry.model, measured = await entry.load()
        except Exception as error:  # outermost: callers get it, whatever a library raises
            entry.state = "out"
            self._fail(entry, error)
            self._serve()
            return
        entry.bytes = max(entry.bytes, measured) if entry.measured else measured
        entry.measured, entry.used_at = True, self._clock()
        if self.used_bytes > self.budget_bytes:
            # It is larger than it was said to be: out again, and in when there is room for its real size.
            log.warning("%s takes %s, which is more than there is room for now", entry.name, _gb(measured))
            await self._leave(entry)
            return
        entry.state = "in"
        self._serve()

    async def _leave(self, entry: Entry) -> None:
        entry.state = "leaving"
        model, entry.model = entry.model, None
        try:
            await entry.unload(model)
        except Exception:  # outermost: a model that cannot say goodbye must not stop the others
            log.exception("%s was not unloaded in good order", entry.name)
        del model
        entry.state = "out"
        self._serve()

    def _fail(self, entry: Entry, error: BaseException) -> None:
        """The error for everybody who waited for this load."""
        failed = [waiter for waiter in self._waiting if waiter.entry is entry]
        self._waiting = [waiter for waiter in self._waiting if waiter.entry is not entry]
        for waiter in failed:
            if not waiter.served.done():
                waiter.served.set_exception(error)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB ({count} bytes)"
