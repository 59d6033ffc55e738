"""Every refusal that can be ordered by name: the rows of sections 5.1 and 5.2, byte for byte.

`stage` says who answers: the gateway before it looks at the key, or the invocation service after it. Guesses, where the
specification leaves the words open: the details of queue-full, operator-429, 500, read-failed, offline, and the shape around
ResourceExhausted (dialect A).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sensorium.simulators.nvidia.catalog import ACCOUNT, Model
from sensorium.simulators.nvidia.replies import PROBLEM, blank_problem, problem, worker_problem
from sensorium.simulators.replies import Reply, json_reply

OFFLINE_RETRY_S = 10800
OPERATOR_SENTENCE = "This model is in high demand; please try again later."
QUEUE_FULL = "Queue overflow: too many requests are waiting for this function"
CREDITS = f"Account '{ACCOUNT}': Cloud credits expired - Please contact NVIDIA representatives"
WORKER = "nvcf-worker-service"


@dataclass(frozen=True, slots=True)
class Incident:
    """A refusal, built for the model that was called."""

    answer: Callable[[Model], Reply]
    stage: Literal["gateway", "service"] = "service"


def gone(model: Model) -> Reply:
    """410 of a retired model (5.2); vanity routes do not name it."""
    who = f"The model '{model.name}'" if model.openai_shaped else "This endpoint"
    return blank_problem(410, f"{who} has reached its end of life on {model.ends or '2026-05-14T00:00:00Z'} and is no longer available.")


def offline(model: Model) -> Reply:
    """503 of a model that an operator took down: the only reply of the service with Retry-After (section 3)."""
    reply = blank_problem(503, model.offline or "The model is offline for maintenance.")
    return Reply(reply.status, reply.body, {**reply.headers, "retry-after": str(OFFLINE_RETRY_S)})


def not_granted(model: Model) -> Reply:
    """404: listed, but not for this account."""
    return problem(404, f"Function '{model.function}': Not found for account '{ACCOUNT}'")


def _versioned(status: int, said: str) -> Incident:
    return Incident(lambda model: problem(status, f"Function id '{model.function}', version '{model.version}': {said}"))


def _plain(status: int, said: str | None = None) -> Incident:
    return Incident(lambda model: problem(status, said))


def _worker(said: str, urn: str = WORKER) -> Incident:
    return Incident(lambda model: worker_problem(urn, 500, said))


MISSING_RESOURCE = "Missing resource entry in ApiKey for the function"
NOT_SHARED = f"Not shared with the account '{ACCOUNT}'"

INCIDENTS = {
    "degraded": Incident(lambda model: problem(400, f"Function id '{model.function}': DEGRADED function cannot be invoked")),
    "read-failed": _plain(400, "failed to read request body: unexpected EOF"),
    "401": _plain(401, "Authentication failed"),
    "402": _plain(402, CREDITS),
    "403": _plain(403, "Authorization failed"),
    "missing-resource": Incident(lambda model: problem(403, f"Function '{model.function}':  {MISSING_RESOURCE}")),
    "missing-resource-version": _versioned(403, MISSING_RESOURCE),
    "not-shared": Incident(lambda model: problem(403, f"Function '{model.function}':  {NOT_SHARED}")),
    "not-shared-version": _versioned(403, NOT_SHARED),
    "not-granted": Incident(not_granted),
    "not-granted-version": _versioned(404, f"Not found for account '{ACCOUNT}'"),
    "not-active": Incident(
        lambda model: problem(
            404, f"Function id '{model.function}' version '{model.version}': Specified function in account '{ACCOUNT}' is not found"
        )
    ),
    "408": _plain(408),
    "409": _plain(409),
    "412": _plain(412),
    "429": _plain(429),
    "queue-full": _plain(429, QUEUE_FULL),
    # The members come out in the order of the alphabet when an operator's sentence was added.
    "operator-429": Incident(
        lambda model: json_reply({"detail": OPERATOR_SENTENCE, "status": 429, "title": "Too Many Requests"}, 429, PROBLEM)
    ),
    "500": _plain(500, "failed to invoke function; cause: connection reset by peer"),
    "501": _plain(501),
    "502": Incident(lambda model: blank_problem(502, "Upstream request failed.")),
    "499": Incident(lambda model: blank_problem(499, "Client closed the request before a response was produced.")),
    "exhausted": _plain(503, "ResourceExhausted: Worker local total request limit reached (33/32)"),
    "inference-connection": _worker("Inference connection error while making inference request", "inference-connection"),
    "worker-inference": _worker("Internal error while making inference request"),
    "worker-assets": _worker("Internal error while downloading assets"),
    "worker-preparing": _worker("Internal error while preparing for inference"),
    "gone": Incident(gone, "gateway"),
    "offline": Incident(offline, "gateway"),
}
