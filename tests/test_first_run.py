"""The tour that `make run` gives: the whole of it once, its calls as pasted, and its words when the port is taken."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_process import ROOT, free_port, hub_environment, image_format, running_hub

SCRIPT = ROOT / "examples" / "first_run.py"


def tour(folder: Path, port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """`first_run.py --once` with `folder` as home and as working folder."""
    command = [sys.executable, str(SCRIPT), "--once", "--port", str(port)]
    env = hub_environment(HOME=str(folder), XDG_DATA_HOME=str(folder / "data"), **environment)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def pasted(output: str) -> list[str]:
    """The shell lines that the tour offers."""
    return [line for line in output.splitlines() if line.startswith(("{ printf", "curl "))]


@pytest.mark.parametrize("token", ["", "sesame"])
def test_the_tour_draws_sees_and_offers_lines_that_work_as_pasted(tmp_path: Path, token: str) -> None:
    port = free_port()
    result = tour(tmp_path, port, MAC_API_TOKEN=token)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "red cube" in result.stdout
    assert image_format(tmp_path / "out" / "red-cube.png") == "PNG"
    assert "sesame" not in result.stdout + result.stderr, "a token is a secret"
    lines = pasted(result.stdout)
    assert len(lines) == 3
    shell = shutil.which("sh")
    assert shell is not None
    with running_hub(tmp_path, port=port, MAC_API_TOKEN=token):
        said = [
            subprocess.run([shell, "-c", line], cwd=tmp_path, env=hub_environment(MAC_API_TOKEN=token), capture_output=True, timeout=60)
            for line in lines
        ]
    assert [answer.returncode for answer in said] == [0, 0, 0], said
    assert "red cube" in json.loads(said[0].stdout)["choices"][0]["message"]["content"]
    for name in ("schnell", "dev"):
        assert image_format(tmp_path / f"{name}.png") == "PNG"


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        result = tour(tmp_path, port)
    assert result.returncode == 1
    assert f"Port {port} is taken" in result.stdout
    assert f"make run PORT={port + 1}" in result.stdout
