"""A drawing told step by step, through hub and engine as they are shipped."""

from __future__ import annotations

import json
import urllib.request

import pytest

from sensorium.wire import sse

WISH = {"prompt": "a red cube on a white table", "steps": 5, "seed": 3}


def post(url: str, accept: str) -> tuple[str, bytes]:
    headers = {"content-type": "application/json", "accept": accept}
    call = urllib.request.Request(f"{url}/v1/genai/black-forest-labs/flux.1-dev", json.dumps(WISH).encode(), headers)
    with urllib.request.urlopen(call, timeout=60) as reply:
        return reply.headers["content-type"], reply.read()


@pytest.mark.parametrize("accept", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
def test_whoever_asks_for_events_gets_every_step_and_then_the_answer(hub: str, accept: str) -> None:
    kind, data = post(hub, accept)
    *steps, last = [json.loads(payload) for payload in sse.Frames().feed(data)]
    assert kind.startswith("text/event-stream")
    assert steps == [{"step": number, "steps": 5} for number in range(1, 6)]
    assert last == json.loads(post(hub, "application/json")[1])
