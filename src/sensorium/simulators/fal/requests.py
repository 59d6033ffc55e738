"""The queue: requests that wait for one of an account's slots, run, and end, on the simulator's clock (sections 4 and 5)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sensorium.simulators.fal.replies import failed
from sensorium.simulators.replies import Reply

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
PICKUP_S: Final = 0.05  # that a request waits for a runner even when one is free
FOREVER: Final = float("inf")
KEPT: Final = 1000  # requests that are remembered
CANCELLED = failed("client_cancelled", "Request cancelled")
TIMED_OUT = failed("request_timeout", "Request timed out", {"x-fal-request-timeout-type": "user"})


@dataclass(slots=True, eq=False)
class Request:
    """One request. Times are in seconds since the epoch; `work_s` is how long it runs, `run()` gives what comes out.

    `start_by` is its start deadline. `waits` holds it back for ever.
    """

    app: str
    key: str
    submitted: float
    work_s: float
    run: Callable[[], Reply]
    start_by: float = FOREVER
    waits: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: float | None = None
    ended: float | None = None
    reply: Reply | None = None
    logs: list[dict[str, str]] = field(default_factory=list)

    @property
    def state(self) -> State:
        """Its state on the wire."""
        return "COMPLETED" if self.ended is not None else "IN_PROGRESS" if self.started is not None else "IN_QUEUE"

    @property
    def seconds(self) -> float | None:
        """How long it ran."""
        return self.ended - self.started if self.started is not None and self.ended is not None else None

    def log(self, at: float, message: str) -> None:
        """Write a line into its log."""
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.logs.append({"message": message, "level": "INFO", "source": "USER", "timestamp": stamp})

    def end(self, at: float, reply: Reply) -> None:
        """It is over, and this is its result."""
        self.ended, self.reply = at, reply
        self.log(at, f"finished with {reply.status}")


class Queue:
    """The requests of all accounts; each has `slots`. Looking at it brings it up to `now()`."""

    def __init__(self, slots: int, now: Callable[[], float]) -> None:
        self._slots, self._now = slots, now
        self._requests: dict[str, Request] = {}
        self._open: list[Request] = []
        self._at = 0.0

    def submit(self, request: Request) -> None:
        """Put a request at the end."""
        self._advance()
        while len(self._requests) >= KEPT:
            del self._requests[next(iter(self._requests))]
        self._requests[request.id] = request
        self._open.append(request)

    def find(self, id: str) -> Request | None:
        """A request by its id, as it stands now."""
        self._advance()
        return self._requests.get(id)

    def waiting(self, app: str) -> int:
        """How many wait for a runner of `app`."""
        self._advance()
        return sum(one.state == "IN_QUEUE" and one.app == app for one in self._open)

    def busy(self, key: str) -> bool:
        """Whether all of an account's slots are taken."""
        self._advance()
        return self._running(key) >= self._slots

    def position(self, request: Request) -> int:
        """How many wait before this one."""
        waiting = [one for one in self._open if one.state == "IN_QUEUE" and one.key == request.key]
        return next((place for place, one in enumerate(waiting) if one is request), 0)

    def cancel(self, request: Request) -> None:
        """Take a waiting request out, stop a running one."""
        self._at = self._now()
        self._end(request, CANCELLED)

    def _end(self, request: Request, reply: Reply) -> None:
        request.end(self._at, reply)
        self._open.remove(request)

    def _running(self, key: str) -> int:
        return sum(one.state == "IN_PROGRESS" for one in self._open if one.key == key)

    def _advance(self) -> None:
        """Play what happened until now, in the order in which it happened."""
        now = self._now()
        while (event := min(self._events(), key=lambda one: one[0], default=None)) is not None and event[0] <= now:
            self._at, request = event
            if request.started is not None:
                self._end(request, request.run())
            elif self._at >= request.start_by:
                self._end(request, TIMED_OUT)
            else:
                request.started = self._at
                request.log(self._at, "started")

    def _events(self) -> Iterator[tuple[float, Request]]:
        """What happens next to every request that is not over, and when."""
        next_up: set[str] = set()
        for one in self._open:
            if one.started is not None:
                yield one.started + one.work_s, one
            elif one.waits or one.key in next_up or self._running(one.key) >= self._slots:
                yield one.start_by, one
            else:
                next_up.add(one.key)
                yield min(max(one.submitted + PICKUP_S, self._at), one.start_by), one


def told(request: Request, position: int, logs: bool, since: int = 0) -> dict[str, Any]:
    """A status without its addresses; of the log what came after the first `since` lines."""
    said: dict[str, Any] = {"status": request.state, "request_id": request.id}
    if request.state == "IN_QUEUE":
        return said | {"queue_position": position}
    said["logs"] = request.logs[since:] if logs else None
    if request.state == "COMPLETED":
        said["metrics"] = {} if request.seconds is None else {"inference_time": round(request.seconds, 3)}
    return said
