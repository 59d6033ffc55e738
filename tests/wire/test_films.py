"""Video calls of the media door in each model's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensorium.errors import Unprocessable
from sensorium.wire import films, jsonbody

COSMOS, COSMOS3, SVD = "nvidia/cosmos-transfer1-7b", "nvidia/cosmos3-nano", "stabilityai/stable-video-diffusion"


@pytest.mark.parametrize(
    ("model", "call", "sent", "changes"),
    [
        (COSMOS, {"prompt": "a", "cfg_scale": 3.5, "seed": 0}, {"prompt": "a", "guidance_scale": 3.5, "seed": 0}, ()),
        (COSMOS, {"prompt": "a", "duration": 2}, {"prompt": "a", "video_params": {"frames_count": 48, "frames_per_sec": 24}}, ()),
        (COSMOS, {"image": "data:,", "width": 96, "height": 64}, {"image": "data:,", "video_params": {"width": 96, "height": 64}}, ()),
        (
            COSMOS3,
            {"prompt": "a", "width": 1280, "height": 720, "duration": 5},
            {"prompt": "a", "resolution": "720_16_9", "num_output_frames": 121, "fps": 24},
            ("size 1280x720 -> resolution 720_16_9", "duration -> 121 frames at 24 a second"),
        ),
        (
            COSMOS3,
            {"prompt": "a", "duration": 0.01},
            {"prompt": "a", "num_output_frames": 5, "fps": 24},
            ("duration -> 5 frames at 24 a second",),
        ),
        (SVD, {"image": "data:,", "seed": 1, "prompt": "a"}, {"image": "data:,", "seed": 1}, ("prompt dropped",)),
        ("org/other", {"prompt": "a", "duration": 2, "width": 8, "height": 8}, {"prompt": "a", "duration": 2, "width": 8, "height": 8}, ()),
    ],
)
def test_each_model_in_its_words(model: str, call: Any, sent: Any, changes: tuple[str, ...]) -> None:
    members, told = films.translated(jsonbody.members(json.dumps(call).encode()), model)
    assert (json.loads(jsonbody.encode(members)), told) == (sent, changes)


def test_a_still_that_is_missing() -> None:
    with pytest.raises(Unprocessable, match="moves a still picture"):
        films.translated(jsonbody.members(b'{"prompt": "a"}'), SVD)
