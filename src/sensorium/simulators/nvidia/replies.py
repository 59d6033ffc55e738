"""The shapes in which the simulated service says no.

Sections, here and in the modules beside, are those of the specification of NVIDIA's hosted API. Guesses, where it is unsure: the reasons
of dialect D are HTTP's phrases, and the type of a vLLM error is BadRequestError.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from sensorium.simulators.replies import Reply, compact, json_reply

PROBLEM, TEXT = "application/problem+json", "text/plain; charset=utf-8"
# Python 3.13 renamed 422; 499 is nginx's own.
PHRASES = {422: "Unprocessable Entity", 499: "Client Closed Request"}


def phrase(status: int) -> str:
    """The HTTP reason phrase."""
    return PHRASES.get(status) or HTTPStatus(status).phrase


def problem(status: int, detail: str | None = None) -> Reply:
    """Dialect A (5.1): NVCF problem details, without `type`; without `detail` when there is none."""
    said = {"status": status, "title": phrase(status)} | ({} if detail is None else {"detail": detail})
    return json_reply(said, status, PROBLEM)


def worker_problem(urn: str, status: int, detail: str) -> Reply:
    """The problem details of workers and of compatibility mode (5.1, 5.4): `type` comes first."""
    kebab = phrase(status).lower().replace(" ", "-")
    return json_reply(
        {"type": f"urn:{urn}:problem-details:{kebab}", "title": phrase(status), "status": status, "detail": detail}, status, PROBLEM
    )


def blank_problem(status: int, detail: str) -> Reply:
    """Dialect B's problem details (5.2): `about:blank`, and a newline behind the JSON."""
    said = {"type": "about:blank", "title": phrase(status), "status": status, "detail": detail}
    return Reply(status, compact(said) + b"\n", {"content-type": PROBLEM})


def gateway_error(message: str, code: str) -> Reply:
    """Dialect B's OpenAI-shaped 400 (5.2), which arrives as text/plain because the gateway sets no content type."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Reply(400, compact({"error": error}) + b"\n", {"content-type": TEXT})


def plain(status: int, line: str) -> Reply:
    """One line of plain text, as the gateway's framework writes it."""
    return Reply(status, f"{line}\n".encode(), {"content-type": TEXT, "x-content-type-options": "nosniff"})


def bare(status: int, text: str) -> Reply:
    """Text without a Content-Type (section 2)."""
    return Reply(status, text.encode())


def detail(status: int, said: Any) -> Reply:
    """Dialect C (5.3): FastAPI's body, a string or a list of validation items."""
    return json_reply({"detail": said}, status)


def vllm_error(status: int, message: str, param: str | None = None) -> Reply:
    """Dialect C as vLLM and NIM write it (5.3)."""
    return json_reply({"object": "error", "message": message, "type": "BadRequestError", "param": param, "code": status}, status)


def dialect_d(reply: Reply) -> Reply:
    """What compatibility mode makes of a container's error (5.4): its text is lost unless it stood in a top-level `error` string."""
    try:
        said = json.loads(reply.body)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    return worker_problem("inference-service", reply.status, error if isinstance(error, str) else "Inference error")
