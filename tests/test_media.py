"""The media door in front of the shipped models: what it draws, it understands."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from typing import Any

import pytest
from PIL import Image

DRAWING = {"prompt": "a red cube on a white table", "width": 768, "height": 768, "steps": 4, "seed": 3, "n": 2}


def made(hub: str, op: str, body: Any) -> dict[str, Any]:
    call = urllib.request.Request(f"{hub}/v1/media/{op}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=60) as reply:
        return dict(json.load(reply))


@pytest.mark.parametrize("model", ["*", "black-forest-labs/flux.1-schnell"])
def test_what_is_drawn_is_understood(hub: str, model: str) -> None:
    answer = made(hub, "image.generate", {**DRAWING, "model": model})
    assert (answer["provider"], answer["model"], len(answer["artifacts"])) == ("local", "sensorium/scenes-flow", 2)
    first = answer["artifacts"][0]
    with Image.open(io.BytesIO(base64.b64decode(first["base64"]))) as picture:
        assert (picture.size, f"image/{(picture.format or '').lower()}") == ((768, 768), first["content_type"])
    said = made(hub, "image.understand", {"prompt": "Describe this image.", "image": first["base64"], "max_tokens": 100})
    assert (said["provider"], said["model"], "red cube" in said["text"]) == ("local", "sensorium/scenes-vlm", True)
