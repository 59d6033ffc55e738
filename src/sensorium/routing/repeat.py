"""Whether a call that failed may be run again, and as what that counts; pure. The classes are those of fal's retry settings.

death             an engine on this machine ended under the call; twice is enough
connection_error  nobody there, the connection broke before the reply, or a hosted job's result was lost
server_error      503 and 504, and a reply that broke off in its middle
timeout           it took longer than it may
busy              a limit was reached, or the provider is being spared after an outage: no run, asked again later
final             everything else: 500, 502, redirects, 4xx, and a caller's own deadline
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sensorium.errors import Busy, Cause, DeadlineExceeded, SensoriumError, Unavailable, UpstreamRefused
from sensorium.routing.call import Attempt, Reply
from sensorium.routing.opening import EMPTY
from sensorium.store.secret import SecretUnusable

NEEDS_RETRY: Final = "x-fal-needs-retry"  # of a reply: 1 or 0 decides about 5xx and 429
AGAIN: Final = (503, 504)
BUSY_WORDS: Final = "resourceexhausted"  # of a provider's worker that has no slot free, under any status
# Of several attempts the first of these counts: a death must be counted, a run that was made too; what passes by waiting comes after.
_FIRST: Final[tuple[Cause, ...]] = ("death", "timeout", "connection_error", "server_error", "busy")
_TRANSPORT: Final[dict[int, Cause]] = {Busy.status: "busy", Unavailable.status: "connection_error", DeadlineExceeded.status: "timeout"}


def verdict(error: SensoriumError) -> Cause:
    """What the error of a call means for whoever may run it again."""
    if error.cause is not None:
        return error.cause
    match error:
        case UpstreamRefused(code="result_lost"):
            return "connection_error"
        case UpstreamRefused(code="deadline_exceeded"):
            return "timeout"
        case UpstreamRefused():
            return of_status(error.status)
        case SecretUnusable():
            return "final"
        case Busy():
            return "busy"
        case Unavailable():
            return "connection_error"
        case DeadlineExceeded():
            return "timeout"
    return "final"


def of_reply(reply: Reply) -> Cause | None:
    """The same of a reply; None for one that is no error. The words of an engine on this machine go on as they came, and raise nothing."""
    return of_status(reply.status, reply.headers.get(NEEDS_RETRY, "")) if reply.status >= 400 else None


def of_status(status: int, needs_retry: str = "") -> Cause:
    """The same of an error status, and of what its sender asks for."""
    if status == 429:
        return "final" if needs_retry == "0" else "busy"
    if status >= 500 and needs_retry in ("0", "1"):
        return "server_error" if needs_retry == "1" else "final"
    return "server_error" if status in AGAIN else "final"


def of_attempts(attempts: Sequence[Attempt]) -> Cause:
    """The same of a call that no route answered. The caller's own fault is final, whatever the others said."""
    if any(attempt.failure.kind == "semantic" and attempt.asked for attempt in attempts):
        return "final"
    found = {_of(attempt) for attempt in attempts}
    return next((cause for cause in _FIRST if cause in found), "final")


def _of(attempt: Attempt) -> Cause:
    failure = attempt.failure
    if attempt.cause is not None:
        return attempt.cause
    match failure.kind:
        case "rate_limited":
            return "busy"
        case "transport":
            return _TRANSPORT.get(failure.status, "final")
        case "provider_outage" if not attempt.asked:
            return "final" if attempt.retry_after_s is None else "busy"
        case "provider_outage" if failure.code != EMPTY:
            if BUSY_WORDS in failure.message.lower():
                return "busy"
            return of_status(failure.status if failure.status >= 500 else 503)  # an outage in a 4xx is one all the same
    return "final"
