"""How requests end that no run has ended, in the words of fal's protocol (fal API page, section 4.5)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sensorium.errors import Cause, SensoriumError, UpstreamRefused
from sensorium.jobs.request import Made
from sensorium.wire import fal_errors, fal_status


def ending(error: str, kind: str, status: int, **more: Any) -> Made:
    """The result of a request that ended in an error: what its caller reads, and what is told with its state."""
    body = msgspec.json.encode({"detail": error, "error_type": kind, "message": error})
    return Made(body, status, {"error": error, "error_type": kind, "status": status, "code": kind, "message": error, **more})


CANCELLED: Final = ending(fal_status.CANCELLED, fal_status.CANCELLED_TYPE, 499)
TIMED_OUT: Final = ending(fal_status.TIMED_OUT, fal_status.TIMED_OUT_TYPE, 504, timeout_type=fal_errors.USER)
DISCONNECTED: Final = ending("The runner was lost too often while it worked on this request", "runner_disconnected", 500)
UNSERVED: Final = ending("Nobody has been there to run this request", "runner_scheduling_failure", 500)


KINDS: Final[dict[Cause, str]] = {
    "death": "runner_disconnected",
    "connection_error": "runner_connection_error",
    "server_error": "runner_server_error",
    "timeout": "request_timeout",
    "busy": "runner_scheduling_failure",
}


def failed(error: SensoriumError, verdict: Cause, id: str) -> Made:
    """The end of a request whose last run failed. A fault of the runner's is never told by a status that clients repeat."""
    kind = KINDS.get(verdict) or fal_errors.error_type(error)
    status = error.status if verdict == "final" and error.status < 500 and error.status not in (408, 409, 429) else 500
    source = {"source": error.source} if isinstance(error, UpstreamRefused) else {}
    more = {name: value for name in ("param", "hint", "retry_after") if (value := getattr(error, name)) is not None}
    told = {
        "error": error.message,
        "error_type": kind,
        "status": error.status,
        "code": error.code,
        "message": error.message,
        **source,
        **more,
    }
    return Made(fal_errors.error(error, id, kind), status, told)
