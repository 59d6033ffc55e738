"""Serial access to one device: one thread, a bounded queue, a cancel flag and a deadline for each job.

A job is a plain function that gets `cancelled`, a function to ask between two pieces of work. The lane knows neither models nor HTTP;
`run` and `stream` are its asyncio side.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sensorium.errors import Busy, Cancelled, DeadlineExceeded, DeviceLost, SensoriumError, Unavailable

T = TypeVar("T")
Cancelling = Callable[[], bool]
log = logging.getLogger("sensorium.engine")
_ITEM, _END, _ERROR = "item", "end", "error"


@dataclass(slots=True, eq=False)
class Ticket:
    """One job on its way: who waits for it, and whether anybody still does."""

    job: Callable[[Cancelling], Any]
    loop: asyncio.AbstractEventLoop
    out: asyncio.Queue[tuple[str, Any]]
    abandoned: threading.Event = field(default_factory=threading.Event)
    abandoned_at: float | None = None

    def abandon(self, now: float) -> None:
        """The caller needs no more."""
        if not self.abandoned.is_set():
            self.abandoned_at = now
            self.abandoned.set()

    def item(self, value: Any) -> None:
        """Pass one item on."""
        self._send(_ITEM, value)

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes, since the job is done or since `error` ended it."""
        self._send(_END if error is None else _ERROR, error)

    def _send(self, kind: str, value: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(self.out.put_nowait, (kind, value))


@dataclass(slots=True)
class Counters:
    """How many jobs are running (0 or 1) and how many calls wait or prepare theirs now, and how all earlier jobs ended."""

    running: int = 0
    waiting: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0


class Turn:
    """An admitted call: it counts among those that wait, first while it prepares its job and then in the queue, until the job begins."""

    def __init__(self, lane: Lane, deadline_s: float | None) -> None:
        self._lane, self._deadline_s = lane, deadline_s
        self.queued = False
        self._limit = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s

    @asynccontextmanager
    async def in_time(self) -> AsyncGenerator[None, None]:
        """Bounds what happens inside by the call's deadline. Raises DeadlineExceeded."""
        limit = asyncio.timeout_at(self._limit)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(f"the call took longer than its deadline of {self._deadline_s:g} seconds") from None

    async def stream(self, job: Callable[[Cancelling], Any]) -> AsyncGenerator[Any, None]:
        """Queue the job, once for each turn, and pass its items on as they come. Use `aclosing`: closing it early tells the job."""
        ticket = Ticket(job, asyncio.get_running_loop(), asyncio.Queue())
        self._lane._queue_up(ticket)
        self.queued = True
        try:
            while True:
                async with self.in_time():
                    kind, value = await ticket.out.get()
                if kind == _END:
                    return
                if kind == _ERROR:
                    raise value
                yield value
        finally:
            self._lane._abandon(ticket)


class Lane:
    """One device. Start it by using it; `close` when the process ends.

    At most `limit` calls wait; the next one gets Busy with the time after which it may fit. `clock` counts seconds.

    `busy_since` is when the piece of work that is under way began, None while there is none: a job begins a new one whenever it makes an
    item or asks whether it is cancelled. `lost_since` is when a job raised
    DeviceLost: from then on nothing runs here, and whoever looks after the lane ends the process.
    """

    def __init__(self, name: str, limit: int = 32, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.limit = name, limit
        self.counters = Counters()
        self._clock = clock
        self._queue: deque[Ticket] = deque()
        self._preparing = 0
        self._current: Ticket | None = None
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._why: SensoriumError | None = None
        self._mean_s = 0.1
        self._errands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.busy_since: float | None = None
        self._longest_s = 0.0
        self.lost_since: float | None = None

    @property
    def abandoned_since(self) -> float | None:
        """When the first of the jobs under way that were told to stop was told so; None where none was."""
        times = [ticket.abandoned_at for ticket in self._under_way() if ticket.abandoned_at is not None]
        return min(times, default=None)

    @property
    def longest_s(self) -> float:
        """How long the longest piece of work so far has taken; 0 before the first job was finished, any part of which may compile."""
        return self._longest_s if self.counters.finished else 0.0

    @property
    def thread(self) -> int | None:
        """The identifier of the thread that works here; None before there is work."""
        return self._thread.ident if self._thread is not None else None

    async def run(self, job: Callable[[Cancelling], T], deadline_s: float | None = None) -> T:
        """Wait for the device, run `job` on it, return its result.

        When the awaiting task is cancelled the job is told so, or never begins. Raises Busy, DeadlineExceeded, and what the job raises.
        """

        def once(cancelled: Cancelling) -> Iterator[T]:
            yield job(cancelled)

        # To the end of the stream, not to its only item: so the counters are right when the caller goes on.
        async with aclosing(self.stream(once, deadline_s)) as stream:
            (result,) = [item async for item in stream]
        return result

    async def stream(self, job: Callable[[Cancelling], Iterator[T]], deadline_s: float | None = None) -> AsyncGenerator[T, None]:
        """As `run`, for a job that yields: each item is passed on as it comes. Use `aclosing`: closing the stream early tells the job."""
        with self.admitted(deadline_s) as turn:
            async with aclosing(turn.stream(job)) as items:
                async for item in items:
                    yield item

    @contextmanager
    def admitted(self, deadline_s: float | None = None) -> Iterator[Turn]:
        """Take a place among those that wait, before the costly part of preparing a job. The deadline counts from here. Raises Busy."""
        with self._change:
            if self._closed:
                raise self._gone()
            if self.counters.waiting >= self.limit:
                self.counters.refused += 1
                raise Busy(f"{self.counters.waiting} calls are waiting for the device {self.name} already", retry_after=self._patience())
            self._preparing += 1
            self._count_waiting()
        turn = Turn(self, deadline_s)
        try:
            yield turn
        finally:
            with self._change:
                if not turn.queued:
                    self._preparing -= 1
                    self._count_waiting()

    async def alone(self, work: Callable[[], T]) -> T:
        """Run `work` on the device's thread as soon as no job is under way there, before those that wait. It counts nowhere."""
        done: Future[T] = Future()
        with self._change:
            if self._closed:
                raise self._gone()
            self._start()
            self._errands.append((work, done))
            self._change.notify()
        return await asyncio.wrap_future(done)

    def close(self, patience_s: float | None = None) -> bool:
        """Abandon all jobs and end the thread; waits for the piece of work that is under way, `patience_s` at most. Whether it ended."""
        with self._change:
            self._closed = True
            for ticket in (*self._queue, *self._under_way()):
                ticket.abandon(self._clock())
                ticket.end(self._gone())
            while self._errands:
                _, done = self._errands.popleft()
                if done.set_running_or_notify_cancel():
                    done.set_exception(self._gone())
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(patience_s)
        return self._thread is None or not self._thread.is_alive()

    def _queue_up(self, ticket: Ticket) -> None:
        """From preparing to waiting for the device."""
        with self._change:
            if self._closed:
                raise self._gone()
            self._start()
            self._preparing -= 1
            self._queue.append(ticket)
            self._count_waiting()
            self._change.notify()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._live, name=f"lane-{self.name}", daemon=True)
            thread.start()
            self._thread = thread

    def _live(self) -> None:
        try:
            self._work()
        except BaseException:  # outermost: a thread that ended unheard would keep callers waiting for ever
            log.critical("the thread of the device %s has ended", self.name, exc_info=True)
            self._begin_piece()  # nothing ends it: to whoever watches, the device is stuck

    def _run_errands(self) -> None:
        """On the device's thread, while no job is under way."""
        while True:
            with self._change:
                if not self._errands:
                    return
                work, done = self._errands.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            self._begin_piece()
            try:
                done.set_result(work())
            except BaseException as error:  # outermost: the lane outlives it, and whoever waits gets it
                done.set_exception(error)
                if isinstance(error, DeviceLost):
                    self._lose(error)
            self._end_piece()

    def _lose(self, error: DeviceLost) -> None:
        """Nobody waits any longer for a device that will not come back."""
        log.critical("the device %s is lost: %s", self.name, error.message)
        with self._change:
            self._closed, self._why = True, error
            for ticket in self._queue:
                ticket.end(error)
            for _, done in self._errands:
                done.cancel()
            self.lost_since = self._clock()

    def _gone(self) -> SensoriumError:
        """Why nothing is taken any more."""
        return self._why or Unavailable(f"the device {self.name} is shutting down")

    def _abandon(self, ticket: Ticket) -> None:
        """The caller needs no more: tell a running job, take a waiting one out of the queue."""
        with self._change:
            ticket.abandon(self._clock())
            if ticket in self._queue:
                self._queue.remove(ticket)
                self._count_waiting()
                self.counters.cancelled += 1

    def _under_way(self) -> Sequence[Ticket]:
        """The jobs that the device works at; any thread may ask."""
        ticket = self._current
        return [ticket] if ticket is not None else []

    def _begin_piece(self) -> float:
        """A piece of work begins, and so ends the one before; the time by the lane's clock."""
        self._end_piece()
        self.busy_since = now = self._clock()
        return now

    def _end_piece(self) -> None:
        if self.busy_since is not None:
            self._longest_s = max(self._longest_s, self._clock() - self.busy_since)
        self.busy_since = None

    def _count_waiting(self) -> None:
        self.counters.waiting = self._preparing + len(self._queue)

    def _work(self) -> None:
        while True:
            self._run_errands()
            with self._change:
                while not self._queue and not self._closed and not self._errands:
                    self._change.wait()
                if self._errands and not self._closed:
                    continue
                if self._closed:
                    return
                self._current = ticket = self._queue.popleft()
                self._count_waiting()
                self.counters.running = 1
            begun = self._begin_piece()
            outcome, error = self._serve(ticket)
            with self._change:
                self._end_piece()
                self._current, self.counters.running = None, 0
                self._count(outcome, self._clock() - begun)
            ticket.end(error)
            if isinstance(error, DeviceLost):
                self._lose(error)

    def _count(self, outcome: str, seconds: float | None) -> None:
        """Count how a job ended, and let the time it took count in the mean."""
        setattr(self.counters, outcome, getattr(self.counters, outcome) + 1)
        if seconds is not None:
            self._mean_s += 0.2 * (seconds - self._mean_s)

    def _patience(self) -> float:
        """Seconds after which a call that was refused may fit."""
        return max(1.0, math.ceil(self._mean_s * (self.counters.waiting + self.counters.running)))

    def _serve(self, ticket: Ticket) -> tuple[str, BaseException | None]:
        """Run one job to its end; how it ended, by the counter's name, and the error to pass on."""

        def stopped() -> bool:
            if self._current is ticket:  # a library's thread may ask once more when the job is over
                self._begin_piece()
            return ticket.abandoned.is_set()

        try:
            items = ticket.job(stopped)
            for item in items:
                if stopped():
                    return "cancelled", Cancelled("the caller went away")
                ticket.item(item)
        except Cancelled as error:
            return "cancelled", error
        except BaseException as error:  # outermost: the lane outlives whatever a job raises, and the caller gets it
            return "failed", error
        return "finished", None
