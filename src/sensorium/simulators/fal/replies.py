"""The shapes in which the simulated service says no (sections 2 and 6 of the specification of fal's API, as are those named beside).

Guesses, where it is unsure: a malformed key is 401, and so is none at all, with the words of the REST host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from sensorium.simulators.replies import Refused, Reply, json_reply

DOCUMENTED = "https://docs.fal.ai/errors#"
INFRASTRUCTURE = {
    "bad_request": 400,
    "client_cancelled": 499,
    "request_timeout": 504,
    "runner_scheduling_failure": 503,
    "runner_incomplete_response": 502,
    "runner_server_error": 500,
    "internal_error": 500,
}


def said(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A refusal in one sentence."""
    reply = json_reply({"detail": detail}, status)
    return Reply(reply.status, reply.body, {**reply.headers, **(headers or {})})


def failed(kind: str, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error of the infrastructure."""
    reply = json_reply({"detail": detail, "error_type": kind}, INFRASTRUCTURE[kind])
    return Reply(reply.status, reply.body, {**reply.headers, "x-fal-error-type": kind, **(headers or {})})


def unprocessable(items: list[dict[str, Any]]) -> Reply:
    """An error of the model: a list of what is wrong with its input."""
    reply = json_reply({"detail": items}, 422)
    return Reply(422, reply.body, {**reply.headers, "x-fal-retryable": "false", "x-fal-needs-retry": "0", "x-fal-billable-units": "0"})


def item(kind: str, field: str, msg: str, given: Any, ctx: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One entry of such a list."""
    told = {"loc": ["body", field], "msg": msg, "type": kind, "url": f"{DOCUMENTED}{kind}", "input": given}
    return told | ({"ctx": dict(ctx)} if ctx else {})


def refuse(*items: dict[str, Any]) -> NoReturn:
    """Refuse an input."""
    raise Refused(unprocessable(list(items)))


UNAUTHORIZED = said(401, "No user found for Key ID and Secret")
NO_HEADER = said(401, "Authorization header is required")
MALFORMED = said(401, "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'.")
LOCKED = said(403, "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.")
UNKNOWN_REQUEST = json_reply({"status": "NOT_FOUND", "detail": "Request not found"}, 404)
