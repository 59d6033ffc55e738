"""A hub process that is killed, or stopped, while it makes a video: the next one makes it."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_video import COSMOS, FILM
from tests.hub_process import free_port, start_hub
from tests.simulators.site import AI, KEY, eventually, running

SETTINGS = """
[local]
enabled = false
[router.video]
url = "http://{address}{ai}/v1/cosmos"
key_env = "FILM_KEY"
models = ["{model}"]
"""


def call(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
        return json.load(reply)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_video_outlives_its_hub(tmp_path: Path, end: signal.Signals) -> None:
    port = free_port()
    videos = f"http://127.0.0.1:{port}/v1/videos"
    with running(work_s={"*": 400.0}) as site:
        site.clock.held = True
        settings = tmp_path / "sensorium.toml"
        settings.write_text(SETTINGS.format(address=site.address, ai=AI, model=COSMOS))
        arguments = (tmp_path, port, "--settings", str(settings))
        with start_hub(*arguments, FILM_KEY=KEY) as hub:
            made = call(videos, {"model": COSMOS, **FILM})
            eventually(lambda: site.simulator.counters["invoked"] == 1)
            hub.send_signal(end)
            hub.wait(30)
        site.clock.held = False
        with start_hub(*arguments, FILM_KEY=KEY):
            eventually(lambda: call(f"{videos}/{made['id']}")["status"] == "completed")
        assert site.simulator.counters["invoked"] == 2
