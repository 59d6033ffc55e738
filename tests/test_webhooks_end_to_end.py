"""A whole hub in a process of its own: submit with a webhook, check it with the hub's keys, look at its record, ask for it again."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from tests.api.hubs import Hub
from tests.hub_process import running_hub
from tests.receivers import Got, Receiver, fals_recipe, receiving

APP = "/fal/queue/fal-ai/nemotron-diffusion-vlm"
WAIT_S = 120


def picture() -> str:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def told(hub: Hub, receiver: Receiver, asked: dict[str, Any]) -> tuple[str, Got]:
    """Submit, and what came when it had ended; it is genuine."""
    status, submitted = hub.json("POST", f"{APP}?fal_webhook={quote(f'{receiver.base}/hook?job=1', safe='')}", asked)
    assert status == 200, submitted
    assert receiver.arrived.acquire(timeout=WAIT_S)
    got = receiver.got[-1]
    assert fals_recipe(got.headers, got.body, hub.json("GET", "/.well-known/jwks.json")[1]["keys"], time.time())
    assert got.path == "/hook?job=1"
    assert got.told["request_id"] == submitted["request_id"]
    assert got.told["payload"] == hub.json("GET", f"{APP}/requests/{submitted['request_id']}")[1]
    return submitted["request_id"], got


def test_a_request_is_told_of_when_it_ends(tmp_path: Path) -> None:
    with receiving() as receiver, running_hub(tmp_path, "--allow-egress", receiver.base.removeprefix("http://")) as base:
        hub = Hub(base, [])
        _, refused = told(hub, receiver, {"prompt": "What is it?"})
        assert (refused.told["status"], refused.told["error"]) == ("ERROR", "Invalid status code: 422")
        assert refused.told["payload"]["detail"][0]["loc"] == ["body", "image_url"]

        id, first = told(hub, receiver, {"prompt": "What is it?", "image_url": picture(), "max_tokens": 32})
        assert first.told["status"] == "OK", first.told
        status, record = hub.json("POST", f"/v1/requests/{id}/redeliver")
        assert (status, record["webhook_id"]) == (202, first.headers["webhook-id"])
        assert receiver.arrived.acquire(timeout=WAIT_S)
        again = receiver.got[-1]
        assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)
        record = hub.json("GET", f"/v1/requests/{id}/deliveries")[1]
        assert (record["data"][0]["status"], record["data"][0]["address"]) == (200, "127.0.0.1")

        status, refusal = hub.json("POST", f"{APP}?fal_webhook=https%3A%2F%2F10.0.0.1%2F", {"prompt": "What is it?"})
        assert (status, refusal["detail"][0]["loc"]) == (422, ["query", "fal_webhook"])
        hub.close()
