"""The file of the master key: for its owner alone, whole or not at all, replaced in two steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.settings import load_for_vault
from sensorium.store.masterkey import GivenKey, KeyFile, keeper, read_key
from sensorium.store.sealing import MasterKey

POSIX = pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")


@POSIX
def test_a_new_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = KeyFile(tmp_path / "keys" / "master.key")
        key = kept.create()
        kept.stage(MasterKey.random())
        modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "keys", *(tmp_path / "keys").iterdir()]}
    finally:
        os.umask(before)
    assert modes == {"keys": 0o700, "master.key": 0o600, "master.key.next": 0o600}
    assert read_key(kept.path) == key


@POSIX
@pytest.mark.parametrize(("mode", "fine"), [(0o400, True), (0o600, True), (0o440, True), (0o644, False), (0o604, False), (0o660, False)])
def test_a_key_that_others_may_read_is_not_used(tmp_path: Path, mode: int, fine: bool) -> None:
    kept = KeyFile(tmp_path / "master.key")
    key = kept.create()
    kept.path.chmod(mode)
    if fine:
        assert kept.candidates() == [key]
    else:
        with pytest.raises(SettingsError, match=f"run: chmod 600 {kept.path}"):
            kept.candidates()


@pytest.mark.parametrize("text", ["", "AAAA", "not base64 at all, but rather long and private", "\x00\xff" * 30])
def test_a_file_that_holds_no_key_is_named_but_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "master.key"
    path.touch(0o600)
    path.write_text(text, "latin-1")
    with pytest.raises(SettingsError, match=r"master\.key: the master key must hold 32 random bytes in base64") as caught:
        KeyFile(path).candidates()
    assert "private" not in str(caught.value)


def test_a_file_that_is_missing_or_unreadable(tmp_path: Path) -> None:
    assert KeyFile(tmp_path / "none").candidates() == []
    with pytest.raises(SettingsError, match="none: there is no master key"):
        read_key(tmp_path / "none")
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyFile(tmp_path).candidates()


def test_a_staged_key_takes_the_place_when_it_is_in_force(tmp_path: Path) -> None:
    kept, new = KeyFile(tmp_path / "master.key"), MasterKey.random()
    old = kept.create()
    kept.stage(new)
    assert kept.candidates() == [new, old]
    kept.settle(new)
    assert kept.candidates() == [new]


def test_a_staged_key_goes_when_the_old_one_stays_in_force(tmp_path: Path) -> None:
    kept = KeyFile(tmp_path / "master.key")
    old = kept.create()
    kept.stage(MasterKey.random())
    kept.settle(old)
    assert kept.candidates() == [old]
    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]


def test_a_draft_that_a_crash_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "master.key.draft").write_text("half a k", "ascii")
    kept = KeyFile(tmp_path / "master.key")
    assert kept.candidates() == []
    assert kept.candidates() != [kept.create()] == kept.candidates()
    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]


def test_the_settings_say_where_the_key_is(tmp_path: Path) -> None:
    home, key = {"HOME": str(tmp_path)}, MasterKey.random()
    file = tmp_path / "sensorium.toml"
    file.write_text(f"[vault]\nmaster_key_file = '{tmp_path}/a.key'\n", "utf-8")
    assert keeper(load_for_vault(None, home)) == KeyFile(tmp_path / ".local/share/sensorium/master.key")
    assert keeper(load_for_vault(file, home)) == KeyFile(tmp_path / "a.key")
    assert keeper(load_for_vault(file, home | {"SENSORIUM_MASTER_KEY_FILE": "/b.key"})) == KeyFile(Path("/b.key"))
    assert keeper(load_for_vault(None, home | {"SENSORIUM_MASTER_KEY": f"{key.text()}\n"})) == GivenKey(key)
    with pytest.raises(SettingsError, match="SENSORIUM_MASTER_KEY must hold 32 random bytes") as caught:
        keeper(load_for_vault(None, home | {"SENSORIUM_MASTER_KEY": "sesame"}))
    assert "sesame" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"SENSORIUM_MASTER_KEY and a master key file \(.*\) are both given; keep one"):
        load_for_vault(file, home | {"SENSORIUM_MASTER_KEY": key.text()})
