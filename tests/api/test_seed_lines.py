"""The seed's speech and video lines as they stand, with curl, in front of the simulator; only what is in <> and paths are filled in."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.simulators.sound import riff, tone
from tests.api import hubs
from tests.api.hubs import Hub
from tests.routing.hosted import nvidia, provider
from tests.simulators.site import AI, KEY, running

ASR = r"""curl -s -X POST "$MAC_HUB_URL/v1/audio/transcriptions" \
-H "Authorization: Bearer $MAC_API_TOKEN" -F file=@clip.wav -F model=nvidia/parakeet-ctc-1.1b-en-us
"""
TTS = r"""curl -s -X POST "$MAC_HUB_URL/v1/audio/synthesize" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d '{"text":"hello","voice":"Magpie-Multilingual.EN-US.Aria"}' -o speech.wav
"""
VIDEO = r"""curl -s -X POST "$MAC_HUB_URL/v1/video/nvidia/cosmos-predict1-7b" \
-H "Authorization: Bearer $MAC_API_TOKEN" -H 'Content-Type: application/json' \
-d '{"prompt":"a drone shot over a forest","seed":0}' -o out.json
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32" or not shutil.which("curl"), reason="the document's lines need curl and a shell")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as site:
        speaks = provider(f"http://{site.address}/v1", "speech", KEY)
        films = replace(provider(f"http://{site.address}{AI}/v1/cosmos", "films", KEY), timeout_s=60.0, idle_s=60.0)
        routes = [nvidia("transcribe", speaks), nvidia("speech", speaks), nvidia("video", films, dialect="genai")]
        with hubs.over(routes) as hub:
            yield hub


def shell(line: str, folder: Path, hub: Hub) -> str:
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "MAC_HUB_URL": f"http://{hub.address}", "MAC_API_TOKEN": "none"}
    done = subprocess.run(["sh", "-eu", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transcription(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(riff(tone(440, 1.25, 16000), 16000))
    assert json.loads(shell(ASR, tmp_path, hub))["text"].startswith("a sound of 1.25 seconds at 44")


def test_synthesis(hub: Hub, tmp_path: Path) -> None:
    shell(TTS, tmp_path, hub)
    with wave.open(str(tmp_path / "speech.wav")) as file:
        assert (file.getframerate(), file.getnframes() > 0) == (22050, True)


def test_video(hub: Hub, tmp_path: Path) -> None:
    shell(VIDEO, tmp_path, hub)
    answer = json.loads((tmp_path / "out.json").read_bytes())
    assert base64.b64decode(answer["artifacts"][0]["base64"])[4:8] == b"ftyp"
