"""A container by itself (section 11): the same models without a gateway, without keys, with health and metadata routes.

Guesses: versions, licence and asset texts, the message of the container that is not ready.
"""

from __future__ import annotations

from typing import Any

from sensorium.simulators.nvidia.ask import Ask
from sensorium.simulators.nvidia.replies import TEXT
from sensorium.simulators.replies import Reply, json_reply

CONTEXT_TOKENS = 131_072
RELEASE, API = "1.7.0", "1.0.0"
READY = {"object": "health.response", "message": "Service is ready.", "status": "ready"}
LIVE = {"object": "health.response", "message": "Service is live.", "status": "live"}
TRITON_READY = {"description": "Triton readiness check", "status": "ready"}
NOT_READY = {"object": "error", "message": "Service is not ready.", "type": "ServiceUnavailableError", "code": 503, "param": None}


def about(ask: Ask) -> Reply | None:
    """The answer of a GET route that tells about the container; None where `ask` is for something else."""
    if ask.method != "GET":
        return None
    name = ask.path.removeprefix("/v1/")
    if name == "metrics":
        return Reply(200, b"# TYPE num_requests_running gauge\nnum_requests_running 0\n", {"content-type": TEXT})
    said = _facts(ask).get(name)
    return None if said is None else json_reply(said)


def not_ready() -> Reply:
    """503 of a container that still loads its model."""
    return json_reply(NOT_READY, 503)


def _facts(ask: Ask) -> dict[str, Any]:
    model = ask.model
    triton = model.kind == "video"
    listed = {"id": model.name, "object": "model", "created": int(ask.now), "owned_by": "system", "root": model.name}
    facts: dict[str, Any] = {
        "health/live": LIVE,
        "health/ready": TRITON_READY if triton else READY,
        "metadata": {
            "version": RELEASE,
            "assetInfo": [],
            "licenseInfo": {"name": "simulated", "path": "", "sha": "", "size": 0, "url": "", "type": "file", "content": ""},
            "modelInfo": [{"modelUrl": f"simulated/{model.name}", "shortName": model.name.rpartition("/")[2]}],
        },
        "version": {"release": RELEASE, "api": API},
        "manifest": {"manifest_file": "", "repository": "simulated"},
        "license": {"name": "simulated", "content": ""},
    }
    if model.kind in ("chat", "embed", "rerank"):
        listed |= {"max_model_len": CONTEXT_TOKENS} if model.kind == "chat" else {}
        facts["models"] = {"object": "list", "data": [listed]}
    return facts
