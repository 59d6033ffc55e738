"""`sensorium secret`: values come in by standard input, a file or a terminal, and never go out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from sensorium.store.database import Database
from sensorium.store.masterkey import GivenKey, KeyFile, read_key
from sensorium.store.sealing import MasterKey
from sensorium.store.vault import Vault
from tests.hub_process import hub_environment
from tests.store.vaults import HOST, URL, every_byte, opened

NAME = "nvidia-image"
CANARY = "nvapi-CANARY-q7Jx2"
SETTINGS = f"""
[providers.image]
kind = "genai"
base_url = "https://{HOST}/v1/genai"
key = "secret:{NAME}"
models = [{{ id = "m", modality = "image" }}]

[providers.elsewhere]
kind = "openai"
base_url = "http://127.0.0.1:9000/v1"
key_env = "NOT_SET_IN_THIS_SHELL"
models = [{{ id = "n" }}]
"""


class Shell:
    """Runs `sensorium secret` on a data folder and takes care that no value is ever printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0, **environment: str) -> str:
        command = [sys.executable, "-m", "sensorium.cli", "secret", "--data-dir", str(self.folder), *arguments]
        env = hub_environment(LOGNAME="ann", **environment)
        done = subprocess.run(command, env=env, input=stdin.encode(), capture_output=True, timeout=60, check=False)
        said = (done.stdout + done.stderr).decode()
        assert (done.returncode, "Traceback" in said, "CANARY" in said) == (code, False, False), said
        return said


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "data")


@contextmanager
def vault(shell: Shell) -> Iterator[Vault]:
    with opened(shell.folder) as vault:
        yield vault


def value(shell: Shell, host: str = URL) -> str:
    with vault(shell) as open_vault:
        return open_vault.reveal(NAME, host).value


def test_a_secret_lives_its_life(shell: Shell) -> None:
    assert shell("put", NAME, "--host", HOST, stdin=f"{CANARY}\n") == f"{NAME}: version 1, ready, bound to {HOST}\n"
    said = shell("rotate", NAME, stdin=f"{CANARY}-2\r\n")
    assert said == f"{NAME}: version 2, ready, bound to {HOST}\nthe version before is kept: sensorium secret rollback {NAME}\n"
    assert value(shell) == f"{CANARY}-2"
    assert shell("rollback", NAME) == f"{NAME}: version 3, ready, bound to {HOST}\n"
    assert value(shell) == CANARY
    assert "disabled" in shell("disable", NAME)
    assert "ready" in shell("enable", NAME)
    assert "2 sealed values are under the new master key" in shell("rekey")
    head, row = shell("list").splitlines()
    assert head.split() == ["NAME", "VERSION", "STATE", "STORED", "BOUND", "TO"]
    assert [row.split()[i] for i in (0, 1, 2, 4)] == [NAME, "3", "ready", HOST]
    (listed,) = json.loads(shell("list", "--json"))
    assert (listed["name"], listed["version"], listed["state"]) == (NAME, 3, "ready")
    assert shell("remove", NAME) == f"{NAME}: removed\n"
    told = [line.split()[1:3] for line in shell("audit", NAME).splitlines()[1:]]
    assert told == [["cli:ann", did] for did in ("remove", "enable", "disable", "rollback", "rotate", "put")]
    assert len(shell("audit", "--limit", "2").splitlines()) == 3
    assert b"CANARY" not in every_byte(shell.folder)


def test_a_value_may_come_from_a_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n", "ascii")
    shell("put", NAME, "--host", HOST, "--file", str(tmp_path / "key"))
    assert value(shell) == CANARY
    assert "No such file" in shell("put", NAME, "-f", str(tmp_path / "none"), code=1)


def test_a_value_is_no_argument(shell: Shell) -> None:
    assert "unexpected extra argument" in shell("put", NAME, "a-value", "--host", HOST, code=2)


@pytest.mark.skipif(os.name == "nt", reason="terminals are POSIX")
def test_a_terminal_is_asked_without_echo(shell: Shell) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sensorium.cli", "secret", "--data-dir", str(shell.folder), "put", NAME, "--host", HOST]
    asking = subprocess.Popen(command, env=hub_environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said = b""
    while b"not shown" not in said:
        said += os.read(ours, 1024)
    os.write(ours, f"{CANARY}\n".encode())
    with suppress(OSError):  # how Linux says that the other side is closed
        while piece := os.read(ours, 1024):
            said += piece
    os.close(ours)
    assert asking.wait(60) == 0, said
    assert b"version 1, ready" in said and b"CANARY" not in said
    assert value(shell) == CANARY


def test_the_hosts_of_a_new_secret_may_come_from_the_settings(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text(SETTINGS, "utf-8")
    assert f"bound to {HOST}" in shell("--settings", str(file), "put", NAME, stdin=CANARY)
    assert "--host HOST" in shell("--settings", str(file), "put", "unnamed", stdin=CANARY, code=1)
    file.write_text("[vault]\nmaster = 1\n", "utf-8")
    assert "vault.master: unknown key" in shell("--settings", str(file), "list", code=2)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (("put", NAME), CANARY, 1, "--host HOST"),
        (("put", NAME, "--host", "a/b"), CANARY, 1, "is no host"),
        (("put", NAME, "--host", HOST), "", 1, "the value is empty"),
        (("put", NAME, "--host", HOST), f"Bearer {CANARY}", 1, "without Bearer"),
        (("put", NAME, "--host", HOST), f"{CANARY}\n{CANARY}\n", 1, "line ends"),
        (("put", CANARY, "--host", HOST), "v", 1, "it is not the key"),
        (("rotate", NAME), CANARY, 1, "there is no secret of this name"),
        (("rollback", NAME), "", 1, f"there is no secret {NAME}"),
        (("remove", NAME), "", 1, "there is no secret of this name"),
        (("rekey", "--new-key-file", "none"), "", 2, "none: there is no master key"),
        (("fly",), "", 2, "No such command"),
    ],
)
def test_what_cannot_be_done_is_told_in_words(shell: Shell, arguments: tuple[str, ...], stdin: str, code: int, said: str) -> None:
    told = shell(*arguments, stdin=stdin, code=code)
    assert said in told
    if code == 1:
        assert told.startswith("sensorium: ") and told.count("\n") == 1


def test_a_value_of_another_kind_is_stored_with_a_warning(shell: Shell) -> None:
    said = shell("put", NAME, "--host", "api.openai.com", stdin=CANARY)
    assert "sensorium: this looks like a key of build.nvidia.com" in said
    assert value(shell, "api.openai.com") == CANARY


def test_a_lost_master_key_exits_2_and_says_what_to_do(shell: Shell) -> None:
    shell("put", NAME, "--host", HOST, stdin=CANARY)
    (shell.folder / "master.key").rename(shell.folder / "away")
    said = shell("put", NAME, stdin=CANARY, code=2)
    assert "master.key is missing" in said and "put that key back" in said
    assert not (shell.folder / "master.key").exists()


def test_the_master_key_may_come_from_elsewhere(shell: Shell, tmp_path: Path) -> None:
    old, new = MasterKey.random(), KeyFile(tmp_path / "new.key")
    shell("put", NAME, "--host", HOST, stdin=CANARY, SENSORIUM_MASTER_KEY=old.text())
    assert "name it with --new-key-file" in shell("rekey", code=2, SENSORIUM_MASTER_KEY=old.text())
    key = new.create()
    said = shell("rekey", "--new-key-file", str(new.path), SENSORIUM_MASTER_KEY=old.text())
    assert "start the hub with the new SENSORIUM_MASTER_KEY" in said and key.text() not in said
    assert "holds another master key" in shell("list", code=2, SENSORIUM_MASTER_KEY=old.text())
    assert NAME in shell("list", SENSORIUM_MASTER_KEY_FILE=str(new.path))
    shell("rekey", SENSORIUM_MASTER_KEY_FILE=str(new.path))
    assert read_key(new.path) != key
    assert not (shell.folder / "master.key").exists()
    with closing(Database(shell.folder)) as database:
        assert Vault(database, GivenKey(read_key(new.path))).reveal(NAME, URL).value == CANARY


def test_help_needs_no_vault_and_the_command_loads_none(shell: Shell) -> None:
    assert "Store provider keys" in shell("--help")
    assert "--new-key-file" in shell("rekey", "--help")
    assert not shell.folder.exists()
    loaded = "import sys, sensorium.cli; print([name for name in sys.modules if 'cryptography' in name or 'sensorium.store' in name])"
    done = subprocess.run([sys.executable, "-c", loaded], env=hub_environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
