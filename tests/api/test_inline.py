"""A picture above a model's inline limit, through the hub: made smaller, told in a header; one that cannot be read is the caller's."""

from __future__ import annotations

import json
from dataclasses import replace

from sensorium.wire import dataurl
from tests.api import hubs
from tests.api.hubs import Scripted
from tests.routing.hosted import chat, provider
from tests.serving import serving
from tests.wire.test_decoding import noisy, png


def call(picture: bytes) -> dict[str, object]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": dataurl.build("image/png", picture)}}]
    return {"model": "good", "messages": [{"role": "user", "content": parts}]}


def test_three_megabytes_for_a_model_that_takes_little() -> None:
    picture, program = png(noisy(1100, 1000)), Scripted()
    assert len(picture) > 3_000_000
    with serving(program) as base, hubs.over([replace(chat("good", provider(f"{base}/v1")), inline_limit=180_000)]) as hub:
        reply, _ = hub.call("POST", "/v1/chat/completions", call(picture))
        assert reply.status == 200
        assert reply.headers["x-sensorium-changed"].startswith("messages[0].content[1]: 1100x1000 -> ")
        url = json.loads(program.asked[0][1])["messages"][0]["content"][1]["image_url"]["url"]
        assert url.startswith("data:image/jpeg;base64,") and 60_000 < len(url) < 180_100

        status, refused = hub.json("POST", "/v1/chat/completions", call(picture[:1_000_000]))
        assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "invalid_image", "messages[0].content[1]")
        assert len(program.asked) == 1
