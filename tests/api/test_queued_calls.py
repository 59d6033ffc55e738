"""Requests of the queue seen from the operator's doors: one record each, counters, and who stands in which lane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.api.test_metrics import Bench, bench, parsed, total
from tests.simulators.site import eventually
from tests.upstream_program import Provider

NAMED = """
[local]
enabled = false
[providers.talk]
kind = "openai"
base_url = "{site}/v1"
models = [
    {{ id = "org/good", upstream = "good" }},
    {{ id = "org/slow", upstream = "slow" }},
    {{ id = "org/out", upstream = "refuse-503" }},
    {{ id = "org/shut", upstream = "refuse-401" }},
]
"""


def submitted(hub: Bench, app: str, **headers: str) -> str:
    status, raw = hub.call("POST", f"/fal/queue/{app}", {"prompt": "canary-Zq7 hello"}, **headers)
    assert status == 200, raw
    return str(json.loads(raw)["request_id"])


def shown(hub: Bench, path: str) -> Any:
    status, raw = hub.call("GET", path)
    assert status == 200, raw
    return json.loads(raw)


def test_a_request_leaves_one_record_under_its_own_id(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at, NAMED) as hub:
        id = submitted(hub, "org/good", **{"x-mac-agent-id": "agent-7", "x-request-id": "the-callers-own"})
        eventually(lambda: hub.value("calls_total") == 1)
        eventually(lambda: len(shown(hub, "/v1/calls")["data"]) == 1)
        call = shown(hub, f"/v1/calls/{id}")
        request = shown(hub, f"/v1/requests/{id}")
        (listed,) = shown(hub, "/v1/calls")["data"]
    assert listed["id"] == call["id"] == id
    assert (call["caller"], call["door"], call["outcome"], call["status"]) == ("token", "/fal/queue/*", "answered", 200)
    assert call["attribution"]["agent"] == "agent-7"
    assert (request["state"], [one["outcome"] for one in request["attempts"]]) == ("succeeded", ["succeeded"])


def test_what_the_queue_does_is_counted(tmp_path: Path, at: str, provider: Provider) -> None:
    with bench(tmp_path, at, NAMED) as hub:
        assert hub.value("queue_ended_total") == 0
        submitted(hub, "org/good")
        eventually(lambda: hub.value("queue_ended_total", state="succeeded") == 1)
        out = submitted(hub, "org/out")
        eventually(lambda: hub.value("queue_runs_repeated_total", **{"class": "server_error"}) >= 1)
        assert hub.call("PUT", f"/fal/queue/org/out/requests/{out}/cancel")[0] == 202
        eventually(lambda: hub.value("queue_ended_total", state="cancelled") == 1)
        submitted(hub, "org/shut")
        eventually(lambda: hub.value("queue_ended_total", state="failed") == 1)
        page = hub.page()
    told = parsed(page)
    assert (total(told, "webhooks_waiting"), total(told, "webhook_endpoints_paused"), total(told, "files"), total(told, "files_bytes")) == (
        0,
    ) * 4
    assert not any(word in page for word in ("org/", "canary"))


def test_the_status_tells_who_stands_in_which_lane(tmp_path: Path, at: str, provider: Provider) -> None:
    with bench(tmp_path, at, NAMED, '[jobs]\nlimits = { "org/slow" = 1 }\n') as hub:
        ids = [submitted(hub, "org/slow") for _ in range(3)]
        eventually(lambda: shown(hub, "/v1/status")["jobs"]["lanes"] == {"org/slow": {"waiting": 2, "running": 1}})
        for id in ids:
            hub.call("PUT", f"/fal/queue/org/slow/requests/{id}/cancel")
        eventually(lambda: shown(hub, "/v1/status")["jobs"] == {"waiting": 0, "running": 0, "lanes": {}})
