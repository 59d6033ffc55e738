"""The bodies of fal's queue: a submission's reply, statuses, results that are not there (fal.md, sections 4.2 to 4.6). Pure.

Only three statuses exist on the wire. `logs` is there from IN_PROGRESS on and `queue_position` in IN_QUEUE, since fal's Python client
fails without them; `response_url` always, since JavaScript's tests for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from sensorium.errors import BadRequest
from sensorium.wire.fal_submit import parameters

IN_QUEUE, IN_PROGRESS, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"
Word = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
NOT_READY: Final = "Request is still in progress"  # others' clients compare the text
CANCELLED, CANCELLED_TYPE = "Request cancelled", "client_cancelled"
TIMED_OUT, TIMED_OUT_TYPE = "Request timed out", "request_timeout"
LEVELS: Final = frozenset(("STDERR", "STDOUT", "ERROR", "INFO", "WARN", "DEBUG"))  # those that JavaScript's types know
LONGEST_WAIT_S: Final = 25.0
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Links:
    """Where a request is found: `at` is its result's address."""

    at: str

    def urls(self) -> dict[str, str]:
        """The three addresses that a reply names."""
        return {"response_url": self.at, "status_url": f"{self.at}/status", "cancel_url": f"{self.at}/cancel"}


@dataclass(frozen=True, slots=True)
class Extras:
    """What we tell beside fal's members: how often it was begun, in how many seconds it may be over, what its model does just now."""

    attempt: int
    eta_seconds: float | None = None
    model_state: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands. `logs` None: they were not asked for. `told` is what came of an ended one."""

    id: str
    word: Word
    links: Links
    extras: Extras
    position: int = 0
    logs: list[dict[str, Any]] | None = None
    told: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What a status poll asks for: log lines; seconds in which it may be held (None: as the hub thinks fit)."""

    logs: bool = False
    wait: float | None = None


@lru_cache(maxsize=64)
def look(query: bytes) -> Look:
    """A poll's query string: JavaScript writes `logs=1`, Python `logs=true`. Raises BadRequest for a `wait` that is no number."""
    asked = parameters(query)
    text = asked.get("wait", "")
    try:
        wait = float(text) if text else None
    except ValueError:
        wait = -1.0
    if wait is not None and not wait >= 0:
        raise BadRequest(f"wait is {text[:40]!r}; it takes seconds, up to {LONGEST_WAIT_S:g}", param="wait")
    return Look(asked.get("logs", "").lower() in ("1", "true"), min(wait, LONGEST_WAIT_S) if wait is not None else None)


def links(base_url: str, app: str, id: str) -> Links:
    """`app` is owner and alias alone: clients leave the sub-path out."""
    return Links(f"{base_url}/fal/queue/{app}/requests/{id}")


def line(at: float, level: str, message: str) -> dict[str, Any]:
    """One line of a log, written `at` seconds since the epoch."""
    return {"message": message, "level": level if level in LEVELS else "INFO", "source": "USER", "timestamp": timestamp(at)}


def timestamp(at: float) -> str:
    """RFC 3339, with a zone."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def submitted(id: str, where: Links, position: int) -> bytes:
    """The reply to a submission."""
    told: dict[str, Any] = {"status": IN_QUEUE, "request_id": id, **where.urls(), "queue_position": position, "logs": None, "metrics": {}}
    return _encode({**told, "gateway_request_id": id})


def status(now: Standing) -> bytes:
    """The body of a status."""
    return _encode(members(now))


def members(now: Standing) -> dict[str, Any]:
    """The same, not encoded yet."""
    body: dict[str, Any] = {"status": now.word, "request_id": now.id}
    if now.word == IN_QUEUE:
        body["queue_position"] = now.position
    else:
        body["logs"] = now.logs
    if now.word == COMPLETED:
        told = now.told or {}
        body["metrics"] = {"inference_time": told["inference_time"]} if told.get("inference_time") is not None else {}
        if "error" in told:
            body["error"], body["error_type"] = told["error"], told.get("error_type", "internal_error")
    extras = {"attempt": now.extras.attempt, "eta_seconds": now.extras.eta_seconds, "model_state": now.extras.model_state}
    return {**body, **now.links.urls(), "sensorium": extras}


def not_ready(id: str, where: Links) -> bytes:
    """The answer to who asks for a result too early, status 400."""
    return _encode({"detail": NOT_READY, "message": NOT_READY, "request_id": id, **where.urls()})


def failure(detail: str, kind: str) -> bytes:
    """An error of the infrastructure as a result."""
    return _encode({"detail": detail, "error_type": kind, "message": detail})


def cancelled(status: str) -> bytes:
    """The answer to a cancellation."""
    return _encode({"status": status})


def listed(requests: Iterable[dict[str, Any]], after: str | None) -> bytes:
    """A page of requests; `after` leads to the next one."""
    return _encode({"requests": list(requests), "after": after})
