"""A device that makes many answers side by side: one thread that admits what waits, ticks the batch, and hands out what each tick gave.

The asyncio side is that of `lane`: calls wait in a bounded queue, may leave at any time, and have a deadline. A job is a function that
returns what the batch admits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from sensorium.engines.diffusion_vlm.answering import Answering, Finished
from sensorium.engines.diffusion_vlm.batch import Batch, Step
from sensorium.engines.lane import Lane, Ticket
from sensorium.errors import Cancelled, DeviceLost, SensoriumError, UpstreamFailed

log = logging.getLogger("sensorium.engine")


class SharedLane(Lane):
    """The lane of a batch. `close` ends answers that are in the making.

    `batch` may come and go, as its model does, while no job is under way; there is one whenever a job is queued.
    """

    def __init__(self, name: str, batch: Batch | None, limit: int = 32) -> None:
        super().__init__(name, limit)
        self.batch = batch
        self._served: dict[Answering, tuple[Ticket, float]] = {}

    @property
    def _batch(self) -> Batch:
        assert self.batch is not None
        return self.batch

    def _work(self) -> None:
        while self._wait():
            self._leave()
            if not self._served:
                self._run_errands()
            if not self._errands:
                self._admit()
            if self._served:
                self._tick()
        for answering in [*self._served]:
            self._end(answering, "cancelled", self._gone())

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; False when the lane is closed."""
        with self._change:
            while not (self._queue or self._served or self._errands or self._closed):
                self._change.wait()
            return not self._closed

    def _leave(self) -> None:
        """Take out the answers whose callers have gone."""
        for answering, (ticket, _) in [*self._served.items()]:
            if ticket.abandoned.is_set():
                self._end(answering, "cancelled", Cancelled("the caller went away"))

    def _admit(self) -> None:
        """Give the first of those who wait a free slot: one between two ticks, since its pictures may take as long as many of them."""
        batch = self.batch  # it may go while nobody is served
        with self._change:
            if batch is None or not batch.room or not self._queue or self._closed:
                return
            ticket = self._queue.popleft()
            self._count_waiting()
            waiting = len(self._queue)
        self._begin_piece()
        try:
            answering = batch.admit(ticket.job(ticket.abandoned.is_set), waiting)
        except BaseException as error:  # outermost: the lane outlives whatever a job raises, and the caller gets it
            self._settle("cancelled" if isinstance(error, Cancelled) else "failed")
            ticket.end(error)
            if isinstance(error, DeviceLost):
                self._lose(error)
        else:
            self._served[answering] = ticket, self._clock()
            self.counters.running = len(self._served)
        finally:
            self._end_piece()

    def _tick(self) -> None:
        self._begin_piece()
        try:
            steps = self._batch.tick()
        except DeviceLost as error:
            self._lose(error)
        except Exception:  # outermost: no fault in one tick may leave callers waiting for ever
            log.exception("a tick failed; the answers in it are lost")
            for answering in [*self._served]:
                self._end(answering, "failed", UpstreamFailed("the engine failed on this call; its log has the details"))
        else:
            for step in steps:
                self._hand_out(step)
        finally:
            self._end_piece()

    def _lose(self, error: DeviceLost) -> None:
        for answering in [*self._served]:
            self._end(answering, "failed", error)
        super()._lose(error)

    def _hand_out(self, step: Step) -> None:
        ticket, _ = self._served[step.answering]
        for event in step.events:
            ticket.item(event)
        if step.error is not None:
            self._end(step.answering, "failed", step.error)
        elif step.events and isinstance(step.events[-1], Finished):
            self._end(step.answering, "finished", None)

    def _end(self, answering: Answering, outcome: str, error: SensoriumError | None) -> None:
        ticket, begun = self._served.pop(answering)
        self._batch.drop(answering)
        self._settle(outcome, self._clock() - begun)
        ticket.end(error)

    def _settle(self, outcome: str, seconds: float | None = None) -> None:
        with self._change:
            self.counters.running = len(self._served)
            self._count(outcome, seconds)

    def _under_way(self) -> Sequence[Ticket]:
        return [ticket for ticket, _ in [*self._served.values()]]

    def _patience(self) -> float:
        batch = self.batch
        rounds = (self.counters.waiting + 1) / (batch.figures.slots if batch is not None else 1)
        return max(1.0, math.ceil(self._mean_s * rounds))
