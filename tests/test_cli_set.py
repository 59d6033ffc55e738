"""`sensorium set` changes one option and nothing else; what it cannot change without touching more it leaves alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.settings_text import assigned
from tests.test_cli_setup import FILE, Shell

TEXT = """# ours
[server]
port = 8790  # not the usual one
[router.chat]
url = "https://one.example/v1"  # where it is
models = [
    "a",  # the best
]
"""


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("server.port", 1, "port = 1  # not the usual one"),
        ("router.chat.url", "https://two.example/v1", 'url = "https://two.example/v1"  # where it is'),
        ("router.chat.per_minute", 3.5, "per_minute = 3.5"),
        ("router.audio.url", "https://x/v1", '[router.audio]\nurl = "https://x/v1"'),
        ("local.stand_ins", False, "[local]\nstand_ins = false"),
    ],
)
def test_one_option_changes_and_everything_else_stays(path: str, value: object, line: str) -> None:
    text = assigned(TEXT, path, value)
    assert f"{line}\n" in text
    kept = [one for one in TEXT.splitlines() if not one.startswith(path.rpartition(".")[2])]
    assert [one for one in text.splitlines() if one in kept] == kept


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        (TEXT, "router.chat.models", ["b"]),
        ('router.chat = { url = "https://x" }\n', "router.chat.key", "none"),
        (TEXT, "server.port.number", 1),
        (TEXT, "router.chat.idle_s", float("nan")),
    ],
)
def test_what_one_line_cannot_say_is_refused(text: str, path: str, value: object) -> None:
    with pytest.raises(SettingsError, match=path):
        assigned(text, path, value)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_what_was_set_loads_and_the_command_says_what_is_next(shell: Shell) -> None:
    (shell.folder / FILE).write_text(TEXT, "utf-8")
    said = shell("set", "router.audio.url=https://speech.example/v1/audio", "router.chat.per_minute=30")
    assert "its key:  sensorium secret --settings sensorium.toml put nvidia-audio   # goes to speech.example" in said
    assert "takes it over within a few seconds" in said
    assert tomllib.loads(shell.text)["router"]["chat"]["per_minute"] == 30
    (shell.folder / FILE).write_text(TEXT + "[local]\nqueue = 0\n", "utf-8")
    assert "these wait for the hub's restart: server.port" in shell("set", "server.port=1234", "local.queue=32")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("router.chat.key=nvapi-CANARY-q7Jx2", 'router.chat.key: write it as "secret:NAME"'),
        ("port=1", "write it as TABLE.OPTION=VALUE"),
    ],
)
def test_what_does_not_load_is_not_written(shell: Shell, given: str, said: str) -> None:
    (shell.folder / FILE).write_text(TEXT, "utf-8")
    assert said in shell("set", given, code=2)
    assert shell.text == TEXT
