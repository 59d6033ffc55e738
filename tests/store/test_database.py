"""One file, many processes: what is committed is there, what is not is gone, and nobody writes beside another."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.store.database import FILE, LOCK_FILE, SCHEMA, Database, StoreUnavailable
from tests.hub_process import hub_environment

WRITER = """
import sys
from pathlib import Path
from sensorium.store.database import Database
database = Database(Path(sys.argv[1]), Path(sys.argv[2]))
for number in range(int(sys.argv[3])):
    with database.write() as db:
        (count,) = db.execute("SELECT count FROM counters").fetchone()
        db.execute("UPDATE counters SET count = ?", (count + 1,))
    if number % 3 == 0:
        database.checkpoint()
database.close()
"""


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    folder = tmp_path / "schema"
    folder.mkdir()
    (folder / "0001_counters.sql").write_text(
        "CREATE TABLE counters (count INTEGER NOT NULL CHECK (count < 1000)); INSERT INTO counters VALUES (0);", "utf-8"
    )
    return folder


@pytest.fixture
def database(tmp_path: Path, schema: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "data", schema)) as database:
        yield database


def counted(database: Database, number: int) -> None:
    with database.write() as db:
        db.execute("UPDATE counters SET count = ?", (number,))


def count(database: Database) -> int:
    return int(database.read("SELECT count FROM counters")[0][0])


def test_what_a_block_wrote_is_there_after_it_and_not_before(database: Database) -> None:
    with database.write() as db:
        db.execute("UPDATE counters SET count = 7")
        assert count(database) == 0
    assert count(database) == 7


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as db:
        db.execute("UPDATE counters SET count = 7")
        raise KeyError
    assert count(database) == 0


def test_a_write_that_the_database_refuses_is_told_and_undone(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be written: CHECK constraint") as caught, database.write() as db:
        db.execute("UPDATE counters SET count = 7")
        db.execute("UPDATE counters SET count = 1000")
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (503, "store_unavailable", True)
    assert count(database) == 0


def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"):
        database.read("UPDATE counters SET count = 7")


def test_a_read_does_not_wait_for_a_writer(database: Database, tmp_path: Path, schema: Path) -> None:
    with closing(Database(tmp_path / "data", schema)) as other, other.write() as db:
        db.execute("UPDATE counters SET count = 7")
        assert count(database) == 0


def test_changes_of_this_and_of_other_processes_are_seen(database: Database, tmp_path: Path, schema: Path) -> None:
    seen = [database.changes()]
    assert database.changes() == seen[0]
    with closing(Database(tmp_path / "data", schema)) as other:
        for writer in (database, other):
            with writer.write() as db:
                db.execute("UPDATE counters SET count = count + 1")
            seen.append(database.changes())
    assert len(set(seen)) == 3


@pytest.mark.skipif(os.name == "nt", reason="the look at the lock is POSIX")
def test_writing_is_for_one_at_a_time_across_processes(database: Database, tmp_path: Path) -> None:
    import fcntl

    def free() -> bool:
        with (tmp_path / "data" / LOCK_FILE).open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    assert free()
    with database.exclusive():
        with database.exclusive(), database.write():
            assert not free()
        assert not free()
    assert free()
    with pytest.raises(KeyError), database.write():
        raise KeyError
    assert free()


def test_writing_is_for_one_thread_at_a_time(database: Database) -> None:
    def add() -> None:
        for _ in range(10):
            with database.exclusive():
                before = count(database)
                with database.write() as db:
                    db.execute("UPDATE counters SET count = ?", (before + 1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count(database) == 40


def test_processes_that_write_at_once_lose_nothing(database: Database, tmp_path: Path, schema: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "data"), str(schema), "20"]
    writers = [subprocess.Popen(command, env=hub_environment()) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert count(database) == 60
    assert database.read("PRAGMA integrity_check") == [("ok",)]


def test_it_is_durable_and_strict(database: Database) -> None:
    with database.write() as db:
        told = {
            name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Database(tmp_path / "data")) as database, database.write() as db:
            db.execute("UPDATE vault_state SET generation = generation + 1")
            modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "data", *(tmp_path / "data").iterdir()]}
    finally:
        os.umask(before)
    assert modes.pop("data") == 0o700
    assert set(modes) >= {FILE, f"{FILE}-wal", f"{FILE}-shm"}
    assert set(modes.values()) == {0o600}


def test_closing_leaves_one_whole_file(tmp_path: Path, schema: Path) -> None:
    with closing(Database(tmp_path / "data", schema)) as database, database.write() as db:
        db.execute("UPDATE counters SET count = 7")
    assert not list((tmp_path / "data").glob("*-wal"))
    with closing(sqlite3.connect(tmp_path / "data" / FILE)) as plain:
        assert plain.execute("SELECT count FROM counters").fetchone() == (7,)


def test_a_checkpoint_empties_the_wal(database: Database, tmp_path: Path) -> None:
    with database.write() as db:
        db.execute("UPDATE counters SET count = 7")
    wal = tmp_path / "data" / f"{FILE}-wal"
    assert wal.stat().st_size > 0
    database.checkpoint()
    assert (wal.stat().st_size, count(database)) == (0, 7)


def test_migrations_run_once_and_in_order(tmp_path: Path, schema: Path) -> None:
    for step in range(3):
        with closing(Database(tmp_path / "data", schema)) as database:
            assert database.read("PRAGMA user_version") == [(step + 1,)]
            assert count(database) == step
        (schema / f"{step + 2:04}_more.sql").write_text("UPDATE counters SET count = count + 1", "utf-8")


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path, schema: Path) -> None:
    Database(tmp_path / "data", schema).close()
    broken = schema / "0002_broken.sql"
    broken.write_text("UPDATE counters SET count = 7; CREATE TABLE counters (count INTEGER);", "utf-8")
    with pytest.raises(SettingsError, match="already exists"):
        Database(tmp_path / "data", schema)
    broken.unlink()
    with closing(Database(tmp_path / "data", schema)) as database:
        assert (count(database), database.read("PRAGMA user_version")) == (0, [(1,)])


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path, schema: Path) -> None:
    (schema / "0002_more.sql").write_text("UPDATE counters SET count = 7", "utf-8")
    Database(tmp_path / "data", schema).close()
    (schema / "0002_more.sql").unlink()
    with pytest.raises(SettingsError, match="written by a newer version"):
        Database(tmp_path / "data", schema)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("this is my diary\n" * 100, "utf-8")
    with pytest.raises(SettingsError, match=r"sensorium\.db: cannot be opened: file is not a database"):
        Database(tmp_path)
    assert (tmp_path / FILE).read_text("utf-8").startswith("this is my diary")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file/data/sensorium\.db: cannot be opened"):
        Database(tmp_path / "file" / "data")


def test_the_schema_files_are_numbered_without_gaps() -> None:
    assert [int(file.name[:4]) for file in sorted(SCHEMA.glob("*.sql"))] == list(range(1, len(list(SCHEMA.glob("*.sql"))) + 1))


def test_one_hub_to_a_folder(tmp_path: Path, schema: Path) -> None:
    with closing(Database(tmp_path, schema)) as first, closing(Database(tmp_path, schema)) as second:
        first.keep_hubs_off()
        with pytest.raises(SettingsError, match="another hub runs on this folder"):
            second.keep_hubs_off()
        with second.write() as db:
            db.execute("SELECT 1")
    with closing(Database(tmp_path, schema)) as next_one:
        next_one.keep_hubs_off()


def test_the_wal_is_emptied_when_nothing_was_written_for_a_while(database: Database, tmp_path: Path) -> None:
    wal = tmp_path / "data" / f"{FILE}-wal"
    counted(database, 7)
    seen = database.rest(-1)
    assert wal.stat().st_size > 0
    counted(database, 8)
    busy = database.rest(seen)
    assert (busy != seen, wal.stat().st_size > 0) == (True, True)
    quiet = database.rest(busy)
    assert (wal.stat().st_size, count(database)) == (0, 8)
    database.rest(quiet)
    counted(database, 9)
    assert (wal.stat().st_size > 0, count(database)) == (True, 9)


@pytest.mark.parametrize(("code", "fatal"), [(sqlite3.SQLITE_IOERR_FSYNC, 1), (sqlite3.SQLITE_IOERR_WRITE, 1), (sqlite3.SQLITE_FULL, 0)])
def test_a_disk_that_fails_under_any_change_is_the_end_of_the_process(database: Database, code: int, fatal: int) -> None:
    ends, error = list[str](), sqlite3.OperationalError("it failed")
    error.sqlite_errorcode = code
    database.fatal = lambda: ends.append("74")
    with pytest.raises(StoreUnavailable), database.write():
        raise error
    assert len(ends) == fatal
