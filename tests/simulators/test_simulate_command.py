"""`sensorium simulate nvidia`: what it prints, that a hub's settings can be made of it, how it stops, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest

from sensorium import settings
from tests.hub_process import free_port, hub_environment

COMMAND = [sys.executable, "-u", "-m", "sensorium.cli", "simulate", "nvidia"]


@contextmanager
def simulating(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A simulator process and all that it printed at start."""
    with subprocess.Popen(
        [*COMMAND, *arguments], env=hub_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("key_env") and "status_url" in said[-2]:
                    break
            yield process, "".join(said)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_it_prints_where_it_is_and_settings_for_a_hub_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    with simulating("--port", "0") as (process, said):
        found = re.search(r"Simulated NVIDIA API on (http://127\.0\.0\.1:(\d+))\n", said)
        assert found is not None
        connection = HTTPConnection("127.0.0.1", int(found[2]), timeout=30)
        connection.request("GET", "/integrate.api.nvidia.com/v1/models")
        assert connection.getresponse().status == 200
        connection.close()
        headers = {"Authorization": "Bearer nvapi-simulated", "x-simulate": "half-body"}
        connection.request("POST", "/v1/embeddings", '{"model":"baai/bge-m3","input":"a"}', headers)
        with pytest.raises(IncompleteRead):
            connection.getresponse().read()
        connection.close()
        for url in re.findall(r"http://\S+", said):
            assert url.startswith(found[1])
        (variable,) = re.findall(r"export (\w+)=nvapi-simulated\n", said)
        file = tmp_path / "hub.toml"
        file.write_text(said[said.index("# settings") :], "utf-8")
        loaded = settings.load(file, {variable: "nvapi-simulated", "HOME": str(tmp_path)})
        assert {name: table.url.removeprefix(found[1]) for name, table in loaded.router.given.items()} == {
            "chat": "/integrate.api.nvidia.com/v1",
            "image": "/ai.api.nvidia.com/v1/genai",
            "audio": "/877104f7-e885-42b9-8de8-f6e4c6303969.invocation.api.nvcf.nvidia.com/v1/audio",
            "video": "/ai.api.nvidia.com/v1/cosmos",
            "embeddings": "/integrate.api.nvidia.com/v1",
        }
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert (process.stdout.read(), process.wait(30)) == ("", 130)


def test_a_key_that_was_given_is_accepted_and_not_printed() -> None:
    with simulating("--port", "0", "--key", "nvapi-hush", "--rpm", "1", "--cap", "meta/llama-3.1-8b-instruct=5") as (_, said):
        assert "hush" not in said
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        assert found is not None
        statuses = []
        for key in ("nvapi-simulated", "nvapi-hush", "nvapi-hush"):
            connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
            connection.request("POST", "/v1/embeddings", '{"model":"baai/bge-m3","input":"a"}', {"Authorization": f"Bearer {key}"})
            statuses.append(connection.getresponse().status)
            connection.close()
        assert statuses == [403, 200, 429]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fault", "fire=1"), "fault 'fire' is unknown"),
        (("--fault", "429=2"), "from 0 to 1"),
        (("--fault", "429=often"), "KIND=RATE"),
        (("--cap", "meta/llama-3.1-8b-instruct"), "MODEL=NUMBER"),
        (("--work", "nobody/nothing=1"), "no simulated model is called 'nobody/nothing'"),
        (("--pexec", "nobody/nothing"), "no simulated model is called 'nobody/nothing'"),
        (("--key", "two words"), "no header can carry"),
    ],
)
def test_a_command_line_that_cannot_be_used_exits_2(arguments: tuple[str, ...], said: str) -> None:
    result = subprocess.run(
        [*COMMAND, "--port", "0", *arguments], env=hub_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, said in result.stderr, result.stdout) == (2, True, "")
    assert "two words" not in result.stderr


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    port = free_port()
    with simulating("--port", str(port)):
        arguments = [*COMMAND, "--port", str(port)]
        result = subprocess.run(arguments, env=hub_environment(), capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "another program listens there" in result.stderr
