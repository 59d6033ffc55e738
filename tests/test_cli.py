"""The command line: exit codes, one-line errors, and both senses against a real hub."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import sensorium
from sensorium.cli_outcome import INTERRUPTED
from tests.hub_process import free_port, hub_environment, image_format, running_hub


def run(*arguments: str, hub: str = "", stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`sensorium ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "sensorium.cli", *arguments]
    env = hub_environment(MAC_HUB_URL=hub, **environment)
    return subprocess.run(command, env=env, input=stdin, capture_output=True, timeout=60, check=False)


def one_line(result: subprocess.CompletedProcess[bytes]) -> str:
    """What the command said on standard error, which must be a single line."""
    text = result.stderr.decode()
    assert text.count("\n") == 1, text
    assert not result.stdout
    return text


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout.decode().split()) == (0, ["sensorium", sensorium.__version__])


@pytest.mark.parametrize("arguments", [(), ("see",), ("draw", "a cube"), ("fly",), ("see", "a.png", "--loud")])
def test_a_command_line_that_cannot_be_understood_exits_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert b"Usage: sensorium" in result.stdout + result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("see", "no-such-file.png"), "neither a file nor"),
        (("draw", "a cube", "-o", "cube.gif"), "must end in .png, .jpg, .jpeg"),
        (("draw", "a cube", "-o", "no-such-folder/cube.png"), "is not a folder"),
    ],
)
def test_a_wrong_file_exits_2_before_anything_is_called(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments, hub="http://127.0.0.1:1")
    assert (result.returncode, said in one_line(result)) == (2, True)


@pytest.mark.parametrize("address", ["127.0.0.1:8789", "file:///etc/hosts", "http://"])
def test_an_address_that_is_none_exits_2_and_names_the_variable(address: str) -> None:
    result = run("models", hub=address)
    assert (result.returncode, "MAC_HUB_URL" in one_line(result)) == (2, True)


def test_without_a_hub_it_exits_3_and_says_how_to_start_one() -> None:
    result = run("models", hub=f"http://127.0.0.1:{free_port()}")
    assert (result.returncode, "start one with: sensorium serve" in one_line(result)) == (3, True)


def test_settings_that_cannot_be_used_are_listed_one_per_line(tmp_path: Path) -> None:
    settings = tmp_path / "hub.toml"
    settings.write_text("[server]\nprot = 1\nport = 'x'\n", "utf-8")
    result = run("serve", "--settings", str(settings))
    lines = result.stderr.decode().splitlines()
    assert (result.returncode, len(lines)) == (2, 2)
    assert all(line.startswith("sensorium: ") for line in lines)
    assert any("server.prot" in line for line in lines)


def test_it_draws_a_picture_and_sees_what_it_drew(hub: str, tmp_path: Path) -> None:
    picture = tmp_path / "cube.png"
    drawn = run("draw", "a red cube on a white table", "-o", str(picture), "--seed", "3", hub=hub)
    assert (drawn.returncode, drawn.stderr) == (0, b"")
    assert str(picture).encode() in drawn.stdout
    assert image_format(picture) == "PNG"
    for arguments, stdin in (((str(picture),), b""), (("-",), picture.read_bytes()), ((str(picture), "What do you see?"), b"")):
        seen = run("see", *arguments, hub=hub, stdin=stdin)
        assert (seen.returncode, seen.stderr) == (0, b"")
        assert b"red cube" in seen.stdout
        assert b"white table" in seen.stdout


def test_the_suffix_decides_the_format(hub: str, tmp_path: Path) -> None:
    picture = tmp_path / "cube.JPG"
    assert run("draw", "a blue ball on a grey floor", "-o", str(picture), hub=hub).returncode == 0
    assert image_format(picture) == "JPEG"


def test_a_picture_far_larger_than_an_argument_may_be_is_described(hub: str, tmp_path: Path) -> None:
    noise = Image.effect_noise((1100, 1100), 80).convert("RGB")
    data = io.BytesIO()
    noise.save(data, "PNG", compress_level=0)
    assert len(data.getvalue()) > 3_000_000
    seen = run("see", "-", hub=hub, stdin=data.getvalue())
    assert (seen.returncode, seen.stderr) == (0, b"")
    assert len(seen.stdout) > 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("draw", "a red cube", "-o", "{tmp}/cube.png", "--model", "black-forest-labs/flux.1-dev", "--steps", "4"), "5..100"),
        (("draw", "a red cube", "-o", "{tmp}/cube.png", "--model", "nobody/nothing"), "nobody/nothing"),
        (("see", "{tmp}/text.png"), "(HTTP 400)"),
    ],
)
def test_a_refused_call_exits_1_with_the_hubs_own_words(hub: str, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "text.png").write_text("this is no picture", "utf-8")
    result = run(*(argument.format(tmp=tmp_path) for argument in arguments), hub=hub)
    assert (result.returncode, said in one_line(result)) == (1, True)
    assert not (tmp_path / "cube.png").exists()


def test_models_lists_what_there_is_and_what_stands_in(hub: str) -> None:
    table = run("models", hub=hub).stdout.decode()
    assert {"sensorium/scenes-vlm", "sensorium/scenes-flow"} <= set(table.split())
    schnell = next(line for line in table.splitlines() if line.startswith("black-forest-labs/flux.1-schnell"))
    assert "sensorium/scenes-flow" in schnell
    assert run("models", "--json", hub=hub).stdout.startswith(b"[\n")


def test_a_hub_with_a_token_serves_those_who_send_it(tmp_path: Path) -> None:
    with running_hub(tmp_path, MAC_API_TOKEN="sesame") as url:
        refused = run("models", hub=url)
        assert (refused.returncode, "(HTTP 401)" in one_line(refused)) == (1, True)
        assert run("models", hub=url, MAC_API_TOKEN="sesame").returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_a_hub_quietly_with_130(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-u", "-m", "sensorium.cli", "serve", "--port", str(port), "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, env=hub_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said += process.stdout.read()
        assert process.wait(30) == INTERRUPTED
    assert b"Traceback" not in said, said.decode()
