"""Who gets a secret, who does not, and what is told and written about it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensorium.errors import AddressRefused, SensoriumError, SettingsError
from sensorium.settings import Settings
from sensorium.store import records
from sensorium.store.audit import KEPT_S
from sensorium.store.database import Database, StoreUnavailable
from sensorium.store.masterkey import GivenKey, KeyFile
from sensorium.store.sealing import MasterKey
from sensorium.store.secret import (
    HostNotBound,
    InvalidSecret,
    NoPreviousVersion,
    SecretDamaged,
    SecretDisabled,
    SecretLocked,
    SecretMissing,
    SecretUnusable,
    UnknownSecret,
    concerns,
)
from sensorium.store.vault import Vault
from tests.hub_process import ROOT, hub_environment
from tests.store.vaults import HOST, URL, WHO, Clock, every_byte, meddle, opened

NAME = "nvidia-image"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault(tmp_path: Path, clock: Clock) -> Iterator[Vault]:
    with opened(tmp_path, clock=clock) as vault:
        yield vault


def values(vault: Vault, *names: str) -> list[str]:
    return [vault.reveal(name, URL).value for name in names]


def refusal(vault: Vault, name: str, host: str = URL) -> SecretUnusable:
    with pytest.raises(SecretUnusable) as caught:
        vault.reveal(name, host)
    return caught.value


def test_a_value_comes_back_for_its_host_only(vault: Vault) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    assert vault.reveal(NAME, URL).value == vault.reveal(NAME, HOST).value == "nvapi-1"
    for host in ("https://evil.example/v1", f"http://{HOST}", f"{HOST}.evil.example", f"{HOST}:8443"):
        error = refusal(vault, NAME, host)
        assert isinstance(error, HostNotBound)
        assert (error.code, error.status, error.retryable) == ("secret_not_bound", 503, True)
        assert f"secret {NAME} is bound to {HOST} and is not sent to" in error.message
    with pytest.raises(AddressRefused):
        vault.reveal(NAME, f"https://{HOST}@evil.example/")


def test_each_reason_has_its_own_class_code_and_words(vault: Vault) -> None:
    missing = refusal(vault, NAME)
    assert (type(missing), missing.code) == (SecretMissing, "secret_missing")
    assert f"there is no secret {NAME}; store it with: sensorium secret put {NAME}" in missing.message
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.disable(NAME, who=WHO)
    disabled = refusal(vault, NAME)
    assert (type(disabled), disabled.code) == (SecretDisabled, "secret_disabled")
    assert f"sensorium secret enable {NAME}" in disabled.message
    vault.enable(NAME, who=WHO)
    assert values(vault, NAME) == ["nvapi-1"]
    vault.remove(NAME, who=WHO)
    assert isinstance(refusal(vault, NAME), SecretMissing)


def test_putting_again_rotates_and_rolling_back_twice_leads_back(vault: Vault) -> None:
    first = vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    second = vault.rotate(NAME, "nvapi-2", who=WHO)
    assert [(e.version, e.hosts, e.previous) for e in (first, second)] == [(1, (HOST,), False), (2, (HOST,), True)]
    vault.put(NAME, "nvapi-3", ["*.nvidia.com"], who=WHO)
    for version, value, hosts in ((4, "nvapi-2", (HOST,)), (5, "nvapi-3", ("*.nvidia.com",))):
        entry = vault.rollback(NAME, who=WHO)
        assert (entry.version, entry.hosts, vault.reveal(NAME, URL).version) == (version, hosts, version)
        assert values(vault, NAME) == [value]


def test_only_the_version_before_is_kept(vault: Vault, tmp_path: Path) -> None:
    for number in range(5):
        vault.put(NAME, f"nvapi-{number}", [HOST], who=WHO)
    with Watching(tmp_path) as database:
        assert database.read("SELECT version FROM secret_versions ORDER BY version") == [(4,), (5,)]


def test_a_secret_that_was_removed_starts_with_a_higher_version(vault: Vault, tmp_path: Path) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.mark_refused(NAME, 1)
    vault.remove(NAME, who=WHO)
    assert vault.entries() == []
    with Watching(tmp_path) as database:
        assert database.read("SELECT * FROM secret_versions") == []
    entry = vault.put(NAME, "nvapi-2", [HOST], who=WHO)
    assert (entry.version, entry.previous, entry.standing.status) == (2, False, "ready")
    with pytest.raises(NoPreviousVersion):
        vault.rollback(NAME, who=WHO)


def test_what_is_removed_is_erased_from_the_disk_even_sealed(vault: Vault, tmp_path: Path) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.put(NAME, "nvapi-2", who=WHO)
    with Watching(tmp_path) as database:
        rows = database.read("SELECT wrapped, sealed FROM secret_versions")
    sealed = [blob for row in rows for blob in row]
    assert len(sealed) == 4 and all(blob in every_byte(tmp_path) for blob in sealed)
    vault.remove(NAME, who=WHO)
    assert not any(blob in every_byte(tmp_path) for blob in sealed)


def test_a_disabled_secret_stays_disabled_until_it_is_enabled_or_removed(vault: Vault) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.disable(NAME, who=WHO)
    assert vault.put(NAME, "nvapi-2", who=WHO).standing.status == "disabled"
    assert vault.rollback(NAME, who=WHO).standing.status == "disabled"
    vault.remove(NAME, who=WHO)
    assert vault.put(NAME, "nvapi-3", [HOST], who=WHO).standing.status == "ready"


def test_a_new_secret_needs_hosts_and_a_later_version_keeps_them(vault: Vault) -> None:
    with pytest.raises(InvalidSecret, match=f"sensorium secret put {NAME} --host HOST"):
        vault.put(NAME, "nvapi-1", who=WHO)
    assert vault.put(NAME, "nvapi-1", otherwise=[HOST], who=WHO).hosts == (HOST,)
    assert vault.put(NAME, "nvapi-2", otherwise=["other.example"], who=WHO).hosts == (HOST,)
    assert vault.put(NAME, "nvapi-3", ["third.example"], otherwise=[HOST], who=WHO).hosts == ("third.example",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        ("nvapi 1", "holds blanks"),
        ("Bearer nvapi-1", "without Bearer"),
        ("nvapi-1\r\nx-evil: 1", "line ends"),
        ("nvapi-1\n", "line ends"),
        ("nväpi", "printable ASCII"),
        ("a\x00b", "printable ASCII"),
        ("a\x7fb", "printable ASCII"),
        ("x" * 4097, "4097 characters; at most 4096"),
    ],
)
def test_a_value_that_no_header_could_carry_is_refused_without_repeating_it(vault: Vault, value: str, reason: str) -> None:
    with pytest.raises(InvalidSecret, match=reason) as caught:
        vault.put(NAME, value, [HOST], who=WHO)
    assert len(value) < 2 or value not in str(caught.value)
    assert vault.put(NAME, "x" * 4096, [HOST], who=WHO).version == 1
    assert vault.put(NAME, "".join(map(chr, range(0x21, 0x7F))), who=WHO).version == 2


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "../a", "a" * 65, "nvapi-pasted-key", "ä", "a\n"])
def test_a_name_that_cannot_be_is_refused_without_repeating_it(vault: Vault, name: str) -> None:
    with pytest.raises(InvalidSecret, match="a secret's name has") as caught:
        vault.put(name, "v", [HOST], who=WHO)
    assert "pasted" not in str(caught.value)


@pytest.mark.parametrize(
    "do", [Vault.rollback, Vault.disable, Vault.enable, Vault.remove, lambda v, name, who: v.rotate(name, "x", who=who)]
)
def test_there_is_nothing_to_manage_about_a_secret_that_is_not_there(vault: Vault, do: object) -> None:
    with pytest.raises(UnknownSecret) as caught:
        do(vault, NAME, who=WHO)  # type: ignore[operator]
    assert (caught.value.status, caught.value.code) == (404, "secret_not_found")


@pytest.mark.parametrize(
    ("value", "hosts", "told"),
    [
        ("nvapi-1", [HOST], ""),
        ("nvapi-1", ["*.nvidia.com:8443"], ""),
        ("nvapi-1", ["http://127.0.0.1:9000"], ""),
        ("nvapi-1", ["api.openai.com"], "none of the hosts is NVIDIA's: api.openai.com"),
        ("sk-1", ["api.openai.com"], ""),
        ("sk-1", [HOST], "start with nvapi-, this one does not"),
    ],
)
def test_a_key_for_somebody_else_is_noticed(value: str, hosts: list[str], told: str) -> None:
    found = concerns(value, hosts)
    assert told in " ".join(found)
    assert bool(found) is bool(told)
    assert value not in " ".join(found)


def test_a_refused_version_is_a_state_that_a_new_version_ends(vault: Vault) -> None:
    assert (vault.state(NAME).status, vault.state(NAME).version) == ("missing", 0)
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    assert (vault.state(NAME).status, vault.state(NAME).reason) == ("ready", None)
    vault.mark_refused(NAME, vault.reveal(NAME, URL).version)
    refused = vault.state(NAME, URL)
    assert (refused.status, refused.version) == ("refused", 1)
    assert f"the provider refused secret {NAME}" in str(refused.reason)
    assert values(vault, NAME) == ["nvapi-1"]  # the mark is for the plan; it breaks no call
    vault.put(NAME, "nvapi-2", who=WHO)
    assert vault.state(NAME).status == "ready"
    vault.mark_refused(NAME, 1)  # the answer to a call that began before the rotation
    assert vault.state(NAME).status == "ready"
    vault.mark_refused(NAME, 2)
    vault.mark_refused(NAME, 1)
    assert (vault.state(NAME).status, vault.state(NAME, "evil.example").status) == ("refused", "unbound")
    assert vault.rollback(NAME, who=WHO).standing.status == "ready"


def test_a_change_by_another_process_is_in_force_at_once(vault: Vault, tmp_path: Path) -> None:
    with opened(tmp_path) as other:
        assert isinstance(refusal(vault, NAME), SecretMissing)
        other.put(NAME, "nvapi-1", [HOST], who=WHO)
        assert values(vault, NAME) == ["nvapi-1"]
        other.put("else", "sk-1", ["a.example"], who=WHO)
        other.rotate(NAME, "nvapi-2", who=WHO)
        assert values(vault, NAME) == ["nvapi-2"]
        other.rekey(who=WHO)
        assert values(vault, NAME) == ["nvapi-2"]
        other.put(NAME, "nvapi-3", ["*.nvidia.com"], who=WHO)
        assert values(vault, NAME) == ["nvapi-3"]
        vault.rotate(NAME, "nvapi-4", who=WHO)  # with the key that the other one made
        other.disable(NAME, who=WHO)
        assert isinstance(refusal(vault, NAME), SecretDisabled)
        other.remove(NAME, who=WHO)
        assert isinstance(refusal(vault, NAME), SecretMissing)


def test_memory_serves_what_it_knows_when_the_database_cannot_be_read(tmp_path: Path) -> None:
    with opened(tmp_path) as other:
        other.put(NAME, "nvapi-1", [HOST], who=WHO)
        other.put("cold", "sk-1", [HOST], who=WHO)
    database = Database(tmp_path)
    vault = Vault(database, KeyFile(tmp_path / "master.key"))
    assert values(vault, NAME) == ["nvapi-1"]
    database.close()
    assert values(vault, NAME) == ["nvapi-1"]
    assert vault.state(NAME).status == "ready"
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        vault.reveal("cold", URL)
    assert vault.state("cold").status == "unreadable"


def columns(folder: Path) -> list[tuple[str, str]]:
    with Watching(folder) as database:
        return [(table, row[1]) for table in ("secrets", "secret_versions") for row in database.read(f"PRAGMA table_info({table})")]


class Watching:
    """The database of a folder, for a look at its rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Database:
        self.database = Database(self.folder)
        return self.database

    def __exit__(self, *_: object) -> None:
        self.database.close()


ALTERED = {
    "name": "'stolen'",
    "version": "version + 1",
    "state": "'{other}'",
    "changed_at": "changed_at + 1",
    "created_at": "created_at - 1",
    "hosts": "'[\"evil.example\"]'",
    "key_id": "'0123456789abcdef'",
    "seal": "seal || 'text'",  # which is no longer of the type BLOB
    "wrapped": "CAST(substr(wrapped, 2) || x'00' AS BLOB)",
    # The last byte, which is any: a fixed one in its place would change nothing once in 256 times.
    "sealed": "CAST(substr(sealed, 1, length(sealed) - 1) || CASE WHEN substr(sealed, -1) = x'00' THEN x'01' ELSE x'00' END AS BLOB)",
}


def test_an_alteration_of_any_column_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "untouched") as vault:
        vault.put(NAME, "nvapi-1", [HOST], who=WHO)
        vault.put(NAME, "nvapi-2", who=WHO)
        vault.put("disabled", "nvapi-3", [HOST], who=WHO)
        vault.disable("disabled", who=WHO)
    for number, (table, column) in enumerate(columns(tmp_path / "untouched")):
        for other in ("disabled", "removed") if column == "state" else ("",):
            folder = tmp_path / f"{number}{other}"
            folder.mkdir()
            for file in (tmp_path / "untouched").iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
                (folder / file.name).chmod(0o600)
            altered = ALTERED[column].format(other=other)
            newest = " AND version = 2" if table == "secret_versions" else ""
            meddle(folder, f"UPDATE {table} SET {column} = {altered} WHERE name = '{NAME}'{newest}")
            with opened(folder) as vault:
                for name in (NAME, "stolen"):
                    error = refusal(vault, name, URL)
                    wanted = (
                        SecretMissing if (name == "stolen") != (column == "name" and table == "secrets") else (SecretDamaged, SecretLocked)
                    )
                    assert isinstance(error, wanted), f"{table}.{column}: {error!r}"
                    refusal(vault, name, "https://evil.example")
                assert {entry.standing.status for entry in vault.entries()} <= {"disabled", "damaged", "locked"}, f"{table}.{column}"


def test_a_disabled_secret_cannot_be_enabled_in_the_database(vault: Vault, tmp_path: Path) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.disable(NAME, who=WHO)
    meddle(tmp_path, "UPDATE secrets SET state = 'active'")
    with opened(tmp_path) as other:
        assert isinstance(refusal(other, NAME), SecretDamaged)


@pytest.mark.parametrize(
    "statements",
    [
        # a copy of everything under another name
        (
            f"INSERT INTO secrets SELECT 'b', version, state, changed_at, key_id, seal FROM secrets WHERE name = '{NAME}'",
            "INSERT INTO secret_versions SELECT 'b', version, hosts, created_at, key_id, wrapped, sealed FROM secret_versions"
            f" WHERE name = '{NAME}'",
        ),
        # its value and data key under the head of another secret
        (
            "DELETE FROM secret_versions WHERE name = 'wide'",
            f"UPDATE secret_versions SET name = 'wide' WHERE name = '{NAME}'",
        ),
        # only the sealed value, or only the data key
        (f"UPDATE secret_versions SET sealed = (SELECT sealed FROM secret_versions WHERE name = '{NAME}') WHERE name = 'wide'",),
        (f"UPDATE secret_versions SET wrapped = (SELECT wrapped FROM secret_versions WHERE name = '{NAME}') WHERE name = 'wide'",),
        (
            "UPDATE secret_versions SET (wrapped, sealed) ="
            f" (SELECT wrapped, sealed FROM secret_versions WHERE name = '{NAME}') WHERE name = 'wide'",
        ),
        # the head of the other one
        (f"UPDATE secrets SET seal = (SELECT seal FROM secrets WHERE name = '{NAME}') WHERE name = 'wide'",),
    ],
)
def test_a_row_opens_in_its_own_place_only(vault: Vault, tmp_path: Path, statements: tuple[str, ...]) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.put("wide", "sk-1", ["evil.example"], who=WHO)
    meddle(tmp_path, *statements)
    with opened(tmp_path) as other:
        victim = "b" if "'b'" in statements[0] else "wide"
        assert isinstance(refusal(other, victim, "https://evil.example"), SecretDamaged)
        assert isinstance(refusal(other, victim, URL), SecretDamaged)


def test_an_older_version_cannot_be_made_current_in_the_database(vault: Vault, tmp_path: Path) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.put(NAME, "nvapi-2", who=WHO)
    meddle(tmp_path, "DELETE FROM secret_versions WHERE version = 2")
    with opened(tmp_path) as other:
        assert isinstance(refusal(other, NAME), SecretDamaged)


def test_a_damaged_secret_can_be_removed_and_stored_again(vault: Vault, tmp_path: Path) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    meddle(tmp_path, "UPDATE secret_versions SET sealed = x'00'", "UPDATE secrets SET seal = x'00'")
    with opened(tmp_path) as other:
        (entry,) = other.entries()
        assert (entry.standing.status, entry.hosts) == ("damaged", ())
        with pytest.raises(SecretDamaged, match="remove it, then store it again"):
            other.put(NAME, "nvapi-2", [HOST], who=WHO)
        with pytest.raises(SecretDamaged):
            other.rekey(who=WHO)
        other.remove(NAME, who=WHO)
        assert other.put(NAME, "nvapi-2", [HOST], who=WHO).version == 2
        assert values(other, NAME) == ["nvapi-2"]


def test_nothing_is_made_before_something_is_stored(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        assert vault.entries() == []
        assert not (tmp_path / "master.key").exists()
        vault.put(NAME, "nvapi-1", [HOST], who=WHO)
        assert (tmp_path / "master.key").exists()


WRITER = """
import sys
from pathlib import Path
from tests.hub_process import ROOT, hub_environment
from tests.store.vaults import HOST, opened
with opened(Path(sys.argv[1])) as vault:
    for number in range(5):
        vault.put("shared", f"{sys.argv[2]}-{number}", [HOST], who="w")
        vault.put(sys.argv[2], f"{number}", [HOST], who="w")
"""


def test_processes_that_begin_a_vault_at_once_make_one_key_and_lose_no_version(tmp_path: Path) -> None:
    environment = hub_environment()
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], env=environment) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    with opened(tmp_path) as vault:
        assert {entry.name: entry.version for entry in vault.entries()} == {"shared": 15, "a": 5, "b": 5, "c": 5}
        assert values(vault, *"abc") == ["4"] * 3
        assert vault.reveal("shared", URL).value.endswith("-4")
        assert len([row for row in vault.audit() if row.action in ("put", "rotate")]) == 30


def test_a_missing_or_wrong_master_key_stops_the_start_and_no_new_one_is_made(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        vault.put(NAME, "nvapi-1", [HOST], who=WHO)
        vault.remove(NAME, who=WHO)  # even the memory of a removed secret is sealed
    file, right = tmp_path / "master.key", (tmp_path / "master.key").read_bytes()
    file.unlink()
    with pytest.raises(
        SettingsError, match=r"master\.key is missing.*sensorium\.db.*put that key back; if it is lost.*store the secrets again"
    ):
        opened(tmp_path).__enter__()
    assert not file.exists()
    KeyFile(file).create()
    wrong = file.read_bytes()
    with pytest.raises(SettingsError, match=r"master\.key holds another master key than the vault"):
        opened(tmp_path).__enter__()
    with pytest.raises(SettingsError, match="SENSORIUM_MASTER_KEY holds another master key"):
        opened(tmp_path, GivenKey(MasterKey.random())).__enter__()
    assert file.read_bytes() == wrong
    file.write_bytes(right)
    with opened(tmp_path) as vault:
        vault.put(NAME, "nvapi-2", [HOST], who=WHO)
        assert values(vault, NAME) == ["nvapi-2"]


def test_a_process_without_the_new_master_key_reveals_what_it_knows_and_spoils_nothing(tmp_path: Path) -> None:
    old, new = MasterKey.random(), MasterKey.random()
    with opened(tmp_path, GivenKey(old)) as hub, opened(tmp_path, GivenKey(old)) as shell:
        for name in (NAME, "cold"):
            shell.put(name, "nvapi-1", [HOST], who=WHO)
        assert values(hub, NAME) == ["nvapi-1"]
        assert shell.rekey(new, who=WHO) == 2
        assert values(hub, NAME) == ["nvapi-1"]
        assert isinstance(refusal(hub, "cold"), SecretLocked)
        with pytest.raises(SecretLocked, match="put that key back"):
            hub.put(NAME, "nvapi-2", who=WHO)
        assert values(shell, NAME, "cold") == ["nvapi-1"] * 2
    with opened(tmp_path, GivenKey(new)) as hub:
        assert values(hub, NAME, "cold") == ["nvapi-1"] * 2


def test_the_audit_tells_who_did_what_and_outlives_the_secret(vault: Vault, clock: Clock) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who="cli:ann")
    clock.now += 1
    vault.rotate(NAME, "nvapi-2", who="api:token")
    clock.now += 1
    vault.rollback(NAME, who="cli:ann")
    vault.disable(NAME, who="cli:ann")
    vault.rekey(who="cli:ann")
    vault.remove(NAME, who="cli:bob")
    told = [(row.who, row.action, row.name, row.version, row.host) for row in reversed(vault.audit())]
    assert told == [
        ("cli:ann", "put", NAME, 1, HOST),
        ("api:token", "rotate", NAME, 2, HOST),
        ("cli:ann", "rollback", NAME, 3, HOST),
        ("cli:ann", "disable", NAME, 3, ""),
        ("cli:ann", "rekey", "", 0, ""),
        ("cli:bob", "remove", NAME, 3, ""),
    ]
    assert [row.at - 1_800_000_000 for row in vault.audit(limit=3, name=NAME)] == [2, 2, 2]


def test_uses_are_counted_per_secret_host_and_minute(vault: Vault, clock: Clock) -> None:
    vault.put(NAME, "nvapi-1", [HOST, "b.example"], who=WHO)
    for _ in range(3):
        vault.reveal(NAME, URL)
        vault.reveal(NAME, HOST)
        clock.now += 10
    vault.reveal(NAME, "b.example")
    refusal(vault, NAME, "evil.example")
    refusal(vault, "gone")
    vault.flush()
    clock.now += 20
    for _ in range(2):
        vault.reveal(NAME, URL)
        vault.flush()
        clock.now += 20
    vault.state(NAME, URL)
    vault.flush()
    uses = {(row.at - 1_800_000_000, row.action, row.name, row.version, row.host, row.count) for row in vault.audit() if row.who == "hub"}
    assert uses == {
        (0, "reveal", NAME, 1, HOST, 7),
        (0, "reveal", NAME, 1, "b.example", 1),
        (0, "refuse", NAME, 0, "evil.example", 1),
        (0, "refuse", "gone", 0, HOST, 1),
        (60, "reveal", NAME, 1, HOST, 1),
    }


def test_uses_that_cannot_be_written_are_kept(tmp_path: Path) -> None:
    database = Database(tmp_path)
    vault = Vault(database, KeyFile(tmp_path / "master.key"), Clock())
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    vault.reveal(NAME, URL)
    meddle(tmp_path, "ALTER TABLE vault_audit RENAME TO away")
    with pytest.raises(StoreUnavailable):
        vault.flush()
    meddle(tmp_path, "ALTER TABLE away RENAME TO vault_audit")
    vault.reveal(NAME, URL)
    vault.flush()
    assert [row.count for row in vault.audit() if row.action == "reveal"] == [2]
    database.close()


def test_the_audit_is_written_beside_the_calls_and_survives_a_store_in_trouble(
    vault: Vault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def written() -> list[int]:
        return [row.count for row in vault.audit() if row.action == "reveal"]

    async def until(done: object) -> None:
        for _ in range(10_000):
            if done():  # type: ignore[operator]
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it did not happen")

    async def main() -> None:
        keeping = asyncio.create_task(vault.keep_audit(0.001))
        vault.reveal(NAME, URL)
        await until(written)
        meddle(tmp_path, "ALTER TABLE vault_audit RENAME TO away")
        vault.reveal(NAME, URL)
        await until(lambda: "not written to the audit yet" in caplog.text)
        meddle(tmp_path, "ALTER TABLE away RENAME TO vault_audit")
        await until(lambda: written() == [2])
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    asyncio.run(main())


def test_the_audit_forgets_after_400_days(vault: Vault, clock: Clock) -> None:
    vault.put(NAME, "nvapi-1", [HOST], who=WHO)
    for wait, actions in ((KEPT_S, ["reveal", "put"]), (60, ["reveal", "reveal"])):
        clock.now += wait
        vault.reveal(NAME, URL)
        vault.flush()
        assert [row.action for row in vault.audit()] == actions


def test_a_canary_is_nowhere_but_where_it_is_revealed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    canary = "nvapi-CANARY-q7Jx2"
    told: list[object] = []
    with caplog.at_level(logging.DEBUG), opened(tmp_path) as vault:
        told += [vault.put(NAME, canary, [HOST], who=WHO), vault.rotate(NAME, f"{canary}-2", who=WHO), vault.rollback(NAME, who=WHO)]
        told += [vault.reveal(NAME, URL), vault.entries(), vault.state(NAME), vault, vars(vault)]
        with Watching(tmp_path) as database:
            told.append(records.load(database, NAME, vault._ring))
        for act in (
            lambda: vault.put(NAME, f"{canary} {canary}", [HOST], who=WHO),
            lambda: vault.put(canary, "v", [HOST], who=WHO),
            lambda: vault.reveal(NAME, "https://evil.example"),
            lambda: vault.rotate("none", canary, who=WHO),
        ):
            with pytest.raises(SensoriumError) as caught:
                act()
            told += [caught.value, str(caught.value), caught.value.__context__, caught.value.hint]
        files = every_byte(tmp_path)
        vault.rekey(who=WHO)
        vault.flush()
        told.append(vault.audit())
        files += every_byte(tmp_path)
        meddle(tmp_path, "UPDATE secret_versions SET sealed = x'00'")
    files += every_byte(tmp_path)
    with opened(tmp_path) as vault:
        told.append(refusal(vault, NAME))
    text = (repr(told) + caplog.text).encode() + files
    for form in (canary.encode(), base64.b64encode(canary.encode())[:-4], canary.encode().hex().encode(), json.dumps(canary).encode()):
        assert form not in text
    key = (tmp_path / "master.key").read_bytes().strip()
    assert key not in repr(told).encode()


def test_the_settings_do_not_show_a_master_key() -> None:
    settings = Settings.model_validate({"server": {"data_dir": "x"}}).model_copy(update={"master_key": "canary"})
    assert "canary" not in repr(settings) and "canary" not in settings.model_dump_json()
