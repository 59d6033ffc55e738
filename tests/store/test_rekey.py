"""A new master key, and a process that dies at any step of the way to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.store import records
from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile, read_key
from sensorium.store.sealing import MasterKey
from sensorium.store.secret import InvalidSecret
from tests.hub_process import ROOT, hub_environment
from tests.store.dying_program import ENDS_WITH_THE_OLD_KEY, POINTS
from tests.store.vaults import HOST, URL, WHO, every_byte, opened

NAMES = ("a", "b", "c", "d")


def key_ids(folder: Path) -> list[str]:
    database = Database(folder)
    try:
        return records.key_ids(database)
    finally:
        database.close()


def stored(folder: Path) -> None:
    with opened(folder) as vault:
        for name in NAMES:
            vault.put(name, f"{name}-1", [HOST], who=WHO)
            vault.put(name, f"{name}-2", who=WHO)
        vault.remove("d", who=WHO)


def test_every_value_opens_under_the_new_key_and_nothing_of_the_old_is_left(tmp_path: Path) -> None:
    stored(tmp_path)
    old = read_key(tmp_path / "master.key")
    with opened(tmp_path) as running, opened(tmp_path) as shell:
        assert running.reveal("a", URL).value == "a-2"
        assert shell.rekey(who=WHO) == 6
        assert old.id.encode() not in every_byte(tmp_path)
        new = read_key(tmp_path / "master.key")
        for vault in (running, shell):
            assert [vault.reveal(name, URL).value for name in "abc"] == ["a-2", "b-2", "c-2"]
        assert running.rollback("a", who=WHO).version == 3
        assert shell.reveal("a", URL).value == "a-1"
    assert key_ids(tmp_path) == [new.id] != [old.id]
    assert not (tmp_path / "master.key.next").exists()


def test_a_given_key_becomes_the_key(tmp_path: Path) -> None:
    stored(tmp_path)
    new = MasterKey.random()
    with opened(tmp_path) as vault:
        vault.rekey(new, who=WHO)
        with pytest.raises(InvalidSecret, match="in force already"):
            vault.rekey(new, who=WHO)
        assert vault.reveal("a", URL).value == "a-2"
    assert read_key(tmp_path / "master.key") == new


def test_a_vault_without_secrets_can_change_its_key_too(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        assert vault.rekey(who=WHO) == 0
    first = read_key(tmp_path / "master.key")
    with opened(tmp_path) as vault:
        assert vault.rekey(who=WHO) == 0
        vault.put("a", "a-1", [HOST], who=WHO)
    assert read_key(tmp_path / "master.key") != first


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_on_the_way_leaves_a_vault_that_opens(tmp_path: Path, point: str) -> None:
    stored(tmp_path)
    old = read_key(tmp_path / "master.key")
    with opened(tmp_path) as running:
        assert running.reveal("a", URL).value == "a-2"
        command = [sys.executable, "-m", "tests.store.dying_program", str(tmp_path), point]
        environment = hub_environment()
        environment["PYTHONPATH"] += os.pathsep + str(ROOT)
        died = subprocess.run(command, env=environment, cwd=ROOT, timeout=60, capture_output=True, check=False)
        assert died.returncode == -9, died.stderr.decode()
        assert [running.reveal(name, URL).value for name in "abc"] == ["a-2", "b-2", "c-2"]
        with opened(tmp_path) as started:
            assert [started.reveal(name, URL).value for name in "abc"] == ["a-2", "b-2", "c-2"]
        kept = KeyFile(tmp_path / "master.key").candidates()
        assert key_ids(tmp_path) == [kept[0].id]
        assert (kept == [old]) is (point in ENDS_WITH_THE_OLD_KEY), "all old or all new"
        assert running.rollback("a", who=WHO).version == 3
        assert running.rekey(who=WHO) == 6
    with opened(tmp_path) as started:
        assert [started.reveal(name, URL).value for name in "abc"] == ["a-1", "b-2", "c-2"]
