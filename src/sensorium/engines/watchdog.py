"""Ends the process when a device is stuck: in a forward that never comes back, or in work for a caller who has long gone. Or lost.

Nothing can interrupt a thread inside a kernel; a new process can do its work. It knows no models; whoever runs the process starts it again.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final, Protocol

LOOK_EVERY_S: Final = 0.5
STOOD_S: Final = 5.0  # between two looks: the whole process stood still, with its computer or on its own
LET_GO_S: Final = 10.0  # five seconds, and as long again as calls get when the process is told to stop
LAST_WORDS_S: Final = 1.0  # for callers to be told that the device is lost
FIRST_S: Final = 300.0  # the first job of all may compile, record and allocate
log = logging.getLogger("sensorium.engine")


class Watched(Protocol):
    """A lane, as far as it is watched. All times are of one clock."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def busy_since(self) -> float | None:
        """When the piece of work under way began."""

    @property
    def abandoned_since(self) -> float | None:
        """When the first of the jobs under way was told to stop, of those that were."""

    @property
    def longest_s(self) -> float:
        """How long the longest piece of work so far has taken; 0 before the first job was finished."""

    @property
    def lost_since(self) -> float | None:
        """When the device was lost to this process."""

    @property
    def thread(self) -> int | None:
        """The thread that works there."""


class Watchdog:
    """Looks after `lanes`. A piece of work may take `hang_s` (None: any time); a job that is told to stop has `LET_GO_S`, or twice the
    longest piece of work so far. `end` gets the reason and does not return. `pause` is what happens between two looks."""

    def __init__(
        self,
        lanes: Callable[[], Sequence[Watched]],
        hang_s: float | None,
        end: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[], None] = lambda: time.sleep(LOOK_EVERY_S),
    ) -> None:
        self._lanes, self._hang_s, self._end, self._clock, self._pause = lanes, hang_s, end, clock, pause
        self._resumed = -math.inf

    def start(self) -> None:
        """Look every half second, from a thread of its own."""
        threading.Thread(target=self.watch, name="watchdog", daemon=True).start()

    def look(self) -> str | None:
        """Why the process must end; None while all is well. The log gets the stack of the thread that is stuck."""
        now = self._clock()
        for lane in self._lanes():
            reason = self._stuck(lane, now)
            if reason is not None:
                log.critical("%s; its thread is at:\n%s", reason, stack(lane.thread))
                return reason
        return None

    def _stuck(self, lane: Watched, now: float) -> str | None:
        busy, told = lane.busy_since, lane.abandoned_since
        if lane.lost_since is not None and now - lane.lost_since >= LAST_WORDS_S:
            return f"the device {lane.name} is lost to this process"
        if busy is None:
            return None
        busy = max(busy, self._resumed)
        if self._hang_s is not None and now - busy > self._hang_s:
            return f"the device {lane.name} has been at one piece of work for {now - busy:.1f} seconds; {self._hang_s:g} are allowed"
        patience = max(LET_GO_S, 2 * lane.longest_s) if lane.longest_s else FIRST_S
        if told is not None and now - (told := max(told, self._resumed)) > patience:
            return f"a job on the device {lane.name} did not let go for {now - told:.1f} seconds after its caller had left"
        return None

    def watch(self) -> None:
        """Look again and again until there is a reason to end the process."""
        while (reason := self.look()) is None:
            looked = self._clock()
            self._pause()
            if (now := self._clock()) - looked > STOOD_S:
                self._resumed = now
        self._end(reason)


def stack(thread: int | None) -> str:
    """Where a thread is now."""
    frame = sys._current_frames().get(thread) if thread is not None else None
    return "".join(traceback.format_stack(frame)) if frame is not None else "nowhere: it has ended"
