"""Work that outlives its first answer (sections 6.2, 6.3): when a job is ready, what it reports on the way, and when it is given up.

A job is a few times on the injected clock; nothing runs in the background. Guesses: a poll after the gap limit is answered 404 (the
specification allows 404 or 504); a poll on another vanity host than the one that took the call is 404 as well; progress is reported
by video models only, at quarters, with `null` as its body.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sensorium.simulators.nvidia.catalog import NVCF
from sensorium.simulators.nvidia.replies import problem
from sensorium.simulators.replies import Refused, Reply

PASS_GRACE_S = 2.0
GAP_LEAST_S = 10.0
POLL_MOST_S = 3600
GATEWAY_POLL_S, DEFAULT_POLL_S, EVENTS_POLL_S = 300, 60, 1200
QUARTERS = (25, 50, 75)


def poll_seconds(given: str, default: int) -> int:
    """NVCF-POLL-SECONDS: below 1 counts as 1. Raises Refused above 3600 and for what is no whole number."""
    text = given.strip()
    if not text:
        return default
    if not text.removeprefix("-").isdecimal() or int(text) > POLL_MOST_S:
        raise Refused(problem(400, "failed to parse poll duration"))
    return max(1, int(text))


@dataclass(slots=True)
class Job:
    """A call that was answered 202. Times in seconds on the clock; `told_at` is when its last 202 was due.

    `reports` are the (time, percent) that nobody has read yet.
    """

    id: str
    host: str
    reply: Reply
    ready_at: float
    gap_s: float
    told_at: float
    reports: list[tuple[float, int]]

    def next(self, now: float, wait: float) -> tuple[float, int | None]:
        """When a poll that opens now ends, and the percent that it then reports, if it ends with a report."""
        ends = min(now + wait, self.ready_at)
        if now < self.ready_at and self.reports and self.reports[0][0] <= ends:
            at, percent = self.reports.pop(0)
            return max(at, now), percent
        return max(ends, now), None


class Jobs:
    """The jobs that somebody may still poll. `counters` tells how jobs ended: cancelled, lost, fetched."""

    def __init__(self, now: Callable[[], float], counters: Counter[str]) -> None:
        self._now, self._counters = now, counters
        self._jobs: dict[str, Job] = {}

    def add(self, id: str, host: str, reply: Reply, began: float, work_s: float, poll_s: int, progress: bool) -> None:
        """Keep a job that was not done in its first `poll_s` seconds."""
        self._sweep()
        reports = [(began + work_s * percent / 100, percent) for percent in QUARTERS] if progress else []
        gap = max(2.0 * poll_s, GAP_LEAST_S)
        self._jobs[id] = Job(id, host, reply, began + work_s, gap, began + poll_s, reports)

    def find(self, id: str, host: str) -> Job:
        """The job of that id, for a poll on `host`. Raises Refused when it is unknown, fetched or given up."""
        self._sweep()
        job = self._jobs.get(id)
        if job is None or host not in (NVCF, job.host):
            raise Refused(problem(404))
        return job

    def fetched(self, job: Job) -> None:
        """Forget a job whose result leaves now: it is given out once."""
        if self._jobs.pop(job.id, None):
            self._counters["fetched"] += 1

    def _sweep(self) -> None:
        """Give up the jobs that were not polled inside their gap."""
        for job in list(self._jobs.values()):
            if self._now() - job.told_at > job.gap_s:
                del self._jobs[job.id]
                self._counters["cancelled by the gap limit"] += 1
