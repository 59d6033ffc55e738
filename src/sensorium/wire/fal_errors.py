"""fal's two shapes of errors: a list of model errors (`detail` is an array) and infrastructure errors (`detail` is a sentence).

Both carry a top-level `message` beside, which JavaScript clients show (fal API page, "Errors"; measured against both clients).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from sensorium.errors import DeadlineExceeded, SensoriumError, TokenMissing, Unprocessable

DOCS: Final = "https://docs.fal.ai/errors#"
INPUT_SHOWN: Final = 200  # characters of a refused value that are repeated
REQUEST_ID: Final = "x-fal-request-id"
ERROR_TYPE, TIMEOUT_TYPE, USER = "x-fal-error-type", "x-fal-request-timeout-type", "user"
NEEDS_RETRY: Final = "x-fal-needs-retry"
REFUSED: Final = {"x-fal-retryable": "false", NEEDS_RETRY: "0", "x-fal-billable-units": "0"}
NO_USER: Final = "No user found for Key ID and Secret"
NO_HEADER: Final = "Authorization header is required"
NO_REQUEST: Final = "Request not found"
# fal's types (Request Errors) by our status; where none fits, our code stands as the type.
_TYPES: Final = {
    400: "bad_request",
    405: "bad_request",
    408: "request_timeout",
    409: "bad_request",
    411: "bad_request",
    415: "bad_request",
    499: "client_disconnected",
    502: "runner_server_error",
    503: "runner_scheduling_failure",
    504: "request_timeout",
}
_CODES: Final = {"busy": "concurrent_requests_limit", "internal_error": "internal_error", "upstream_failed": "runner_server_error"}
# What clients repeat by itself is answered only where a repetition helps: 408 and 409 cost Python ten tries, 502 JavaScript four.
_STATUSES: Final = {408: 500, 409: 400, 502: 500}
# Of a run that is over for good nothing may look like a thing to try again, nor like a fault of the one who asks for the result.
_FINAL: Final = {401: 500, 404: 500, 405: 500, 408: 500, 409: 400, 410: 500, 425: 500, 429: 500, 502: 500, 503: 500, 504: 500}


class Refused(Unprocessable):
    """An input that an app does not take: `details` are its faults, as `detail` builds them, in the order of the app's fields."""

    code = "validation_error"

    def __init__(self, details: Sequence[dict[str, Any]]) -> None:
        super().__init__(sentence(details[0]), param=str(details[0]["loc"][-1]))
        self.details = list(details)


def detail(field: str | Sequence[Any], message: str, kind: str, *, ctx: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """One fault: `field` below the body (or a whole `loc`), its type, `ctx` of that type; `input=` repeats the value, cut short."""
    loc = ["body", field] if isinstance(field, str) else list(field)
    value = given.get("input")
    shown = {"input": value[:INPUT_SHOWN] if isinstance(value, str) else value} if given else {}
    return {"loc": loc, "msg": message, "type": kind, "url": f"{DOCS}{kind}", **({"ctx": ctx} if ctx else {}), **shown}


def sentence(fault: dict[str, Any]) -> str:
    """A fault as one line, `<field>: <msg>`; places in a list or a text are no names."""
    return f"{[name for name in fault['loc'] if isinstance(name, str)][-1]}: {fault['msg']}"


def error(err: SensoriumError, request_id: str, kind: str = "") -> bytes:
    """The whole error body; `kind` is its type where more is known than the error tells."""
    faults = _faults(err)
    if faults:
        return msgspec.json.encode({"detail": faults, "message": sentence(faults[0])})
    said = f"{err.message} ({err.hint})" if err.hint else err.message
    detail, more = said, {}
    if err.code == "unknown_request":
        detail, more = NO_REQUEST, {"status": "NOT_FOUND"}
    elif err.code == "app_not_found":
        detail = err.message
    elif err.code == "invalid_token":
        detail = NO_HEADER if isinstance(err, TokenMissing) else NO_USER
    told = {"detail": detail, "error_type": kind or error_type(err), "message": said, "request_id": request_id, **more}
    return msgspec.json.encode(told)


def told(err: SensoriumError) -> dict[str, Any]:
    """An error as the last event of a stream that has begun."""
    return {"error": err.message, "error_type": error_type(err)}


def error_type(err: SensoriumError) -> str:
    """What fal calls this kind of error."""
    if isinstance(err, Unprocessable):
        return "validation_error"
    return _CODES.get(err.code) or _TYPES.get(err.status) or err.code


def status(err: SensoriumError) -> int:
    """The HTTP status at a door."""
    return _STATUSES.get(err.status, err.status)


def headers(err: SensoriumError) -> dict[str, str]:
    """What an error says in headers of fal's. A deadline counts as the caller's own, so that no client repeats what took too long."""
    if _faults(err):
        return dict(REFUSED)
    said = {ERROR_TYPE: error_type(err)}
    if isinstance(err, DeadlineExceeded):
        said[TIMEOUT_TYPE] = USER
    if err.status == 429:
        said[NEEDS_RETRY] = "1"
    return said


def final(status: int, told: Mapping[str, Any]) -> tuple[int, dict[str, str]]:
    """Status and headers of the result of a request that failed with `status`."""
    said = dict(REFUSED) if status == 422 else {ERROR_TYPE: told.get("error_type") or "internal_error"}
    return _FINAL.get(status, status), {**said, **told.get("headers", {})}


def _faults(err: SensoriumError) -> list[dict[str, Any]]:
    """The list that a model error has; empty for an error of the infrastructure."""
    if isinstance(err, Refused):
        return err.details
    if not isinstance(err, Unprocessable):
        return []
    if err.code == "idempotency_key_reused":
        return [detail(["header", "idempotency-key"], err.message, "value_error")]
    return [detail(["body", err.param] if err.param else ["body"], err.message, "value_error")]
