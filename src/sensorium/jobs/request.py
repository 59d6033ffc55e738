"""The nouns of the queue: what is submitted, the row that it becomes, and what a run makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from sensorium.errors import NotFound, Unprocessable

NORMAL, LOW = 0, 1  # `prio`: low runs only when no normal one waits in its lane


class State(IntEnum):
    """Where a request stands. The last three are never left."""

    QUEUED, RUNNING, DELAYED, SUCCEEDED, FAILED, CANCELLED = range(6)


class UnknownRequest(NotFound):
    """No request of this id is the caller's."""

    code = "unknown_request"


class KeyReused(Unprocessable):
    """An idempotency key that came with another body before."""

    code = "idempotency_key_reused"


class NotRepeatable(Unprocessable):
    """A request that cannot be run again: it succeeded, is not over, or its input is gone."""

    code = "not_repeatable"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the runs of one request. `retries` caps them by the class of their failure (routing/repeat)."""

    no_retry: bool = False
    retries: Mapping[str, int] = field(default_factory=dict)
    hint: str = ""
    kept: bool = True
    run_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A submission. `work` says who runs it, `app` and `path` what was asked for, `lane` the model whose turns it takes; `call` is what the
    door wants to remember, as JSON. With an `idempotency_key` a repeated submission is the first one.

    `start_within_s` are the seconds in which a run must begin, `most_waiting` how many may wait in the lane before it is refused.
    """

    work: str
    app: str
    path: str
    lane: str
    caller: str
    body: bytes = field(repr=False)
    call: Mapping[str, Any] = field(default_factory=dict)
    prio: int = NORMAL
    start_within_s: float | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    most_waiting: int | None = None
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Request:
    """One row. `told` is what came of it: `headers` and `inference_time` of a success, `error` and `error_type` of everything else;
    `status` is the HTTP status of its result. `ver` grows with every change, `logged` with every line of the run under way.

    Times are in seconds since the epoch.
    """

    seq: int
    id: str
    work: str
    app: str
    path: str
    lane: str
    caller: str
    prio: int
    vtag: float
    call: dict[str, Any]
    rules: Rules
    state: State
    attempt: int
    runs: int
    deaths: int
    upstream: dict[str, Any] | None
    told: dict[str, Any]
    status: int | None
    webhook_url: str | None
    ver: int
    created_at: float
    claimed_at: float | None
    finished_at: float | None
    start_deadline: float | None
    cancel_at: float | None
    payload_gone: bool
    logged: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        return self.state >= State.SUCCEEDED

    @property
    def key(self) -> tuple[int, float, int]:
        """Its place in the order of its lane."""
        return self.prio, self.vtag, self.seq

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn or for another try."""
        return self.state in (State.QUEUED, State.DELAYED)


@dataclass(frozen=True, slots=True)
class Made:
    """What a run made: the body of its result, its HTTP status (any but 200 makes the request a failed one), what is told with it, and the
    keys of files that were stored for it."""

    body: bytes = field(repr=False)
    status: int = 200
    told: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
