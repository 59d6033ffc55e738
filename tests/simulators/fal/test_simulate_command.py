"""`sensorium simulate fal`: what it prints, that a hub's settings can be made of it, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from sensorium import settings
from tests.hub_process import hub_environment

COMMAND = [sys.executable, "-u", "-m", "sensorium.cli", "simulate", "fal"]


@contextmanager
def simulating(*arguments: str) -> Iterator[str]:
    """All that a simulator process printed at start."""
    with subprocess.Popen(
        [*COMMAND, *arguments], env=hub_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line == "]\n":
                    break
            yield "".join(said)
        finally:
            process.kill()


def test_it_prints_where_it_is_and_settings_for_a_hub(tmp_path: Path) -> None:
    with simulating("--port", "0", "--fault", "429=1:3") as said:
        found = re.search(r"Simulated fal API on (http://127\.0\.0\.1:(\d+))\n", said)
        assert found is not None
        for url in re.findall(r"http://[^\s\"]+", said):
            assert url.startswith(found[1])
        (variable,) = re.findall(r"export (\w+)=simulated-id:simulated-secret\n", said)
        file = tmp_path / "hub.toml"
        file.write_text(said[said.index("# settings") :], "utf-8")
        loaded = settings.load(file, {variable: "a:b", "HOME": str(tmp_path)}).providers["fal"]
        assert loaded.base_url == f"{found[1]}/queue.fal.run"
        assert [model.modality for model in loaded.models] == ["chat", "image", "image", "video"]
        connection = HTTPConnection("127.0.0.1", int(found[2]), timeout=30)
        connection.request("POST", "/queue.fal.run/fal-ai/flux/schnell", "{}", {"Authorization": "Key simulated-id:simulated-secret"})
        reply = connection.getresponse()
        assert (reply.status, reply.getheader("retry-after")) == (429, "3")
        connection.close()


def test_a_key_that_was_given_is_not_printed() -> None:
    with simulating("--port", "0", "--key", "mine:hush") as said:
        assert "hush" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fault", "fire=1"), "fault 'fire' is unknown"),
        (("--fault", "429=often"), "KIND=RATE"),
        (("--slots", "0"), "--slots must be at least 1"),
        (("--key", "two words"), "no header can carry"),
        (("--key", "nocolon"), "has two parts, ID:SECRET"),
    ],
)
def test_a_command_line_that_cannot_be_used_exits_2(arguments: tuple[str, ...], said: str) -> None:
    result = subprocess.run(
        [*COMMAND, "--port", "0", *arguments], env=hub_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, said in result.stderr, result.stdout) == (2, True, "")
    assert "two words" not in result.stderr
