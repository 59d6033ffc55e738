"""The hub's database: one SQLite file in the data folder. Transactions, migrations and locks; what the tables mean is not known here.

Every process that writes, checkpoints or closes holds the lock file beside the database. That makes one writer of many processes,
and keeps SQLite before 3.51.3 from the one case in which it can damage a WAL: a write and a checkpoint at the same instant
(https://sqlite.org/wal.html#walresetbug). Reading takes no lock and waits for nobody.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from sensorium.errors import SettingsError, Unavailable
from sensorium.store.mounts import network_file_system

FILE, LOCK_FILE, HUB_LOCK_FILE = "sensorium.db", "sensorium.lock", "hub.lock"
Connection: TypeAlias = sqlite3.Connection
Cursor: TypeAlias = sqlite3.Cursor
SCHEMA = Path(__file__).parent / "schema"
BUSY_S = 5.0
WAL_BYTES = 16 * 1024 * 1024
SQLITE = sqlite3.sqlite_version

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)

    def _lock_at_once(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _lock_at_once(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class StoreUnavailable(Unavailable):
    """The database cannot be read or written now."""

    code = "store_unavailable"


class Database:
    """The open database. Its methods block and may be called from any thread. `fatal` is called when the disk fails under a change.

    `folder` is made when missing, for its owner alone, as are the files. Raises SettingsError when the file cannot be opened, is no
    database, or was written by a newer version.
    """

    def __init__(self, folder: Path, schema: Path = SCHEMA) -> None:
        self.path = folder / FILE
        self.fatal: Callable[[], None] = lambda: None
        self._hub_lockfile: int | None = None
        self._writing, self._reading, self._searching, self._held = threading.RLock(), threading.Lock(), threading.Lock(), 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with ExitStack() as opening:
                self._lockfile = _private(folder / LOCK_FILE)
                opening.callback(os.close, self._lockfile)
                os.close(_private(self.path))  # SQLite would take the umask's mode
                with self.exclusive(), ExitStack() as connecting:
                    self._writer = connecting.enter_context(closing(_connected(self.path)))
                    self._migrate(schema)
                    self._reader = connecting.enter_context(closing(_connected(self.path)))
                    self._searcher = connecting.enter_context(closing(_connected(self.path)))
                    for reader in (self._reader, self._searcher):
                        reader.execute("PRAGMA query_only = ON")
                    self._connections = connecting.pop_all()
                opening.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise SettingsError([f"{self.path}: cannot be opened: {error}; use another server.data_dir or mend this one"]) from None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other writer, in this process or another, out of the block. May be nested."""
        with self._writing:
            if not self._held:
                _lock(self._lockfile)
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1
                if not self._held:
                    _unlock(self._lockfile)

    def keep_hubs_off(self) -> None:
        """Be the one hub of this folder until `close`: another would run the queue's requests a second time.

        Raises SettingsError when there is one, and for a folder of a network file system. Other processes read and write as ever.
        """
        if kind := network_file_system(self.path.parent):
            raise SettingsError(
                [f"{self.path.parent}: lies on a network file system ({kind}); use a server.data_dir on a disk of this machine"]
            )
        lockfile = _private(self.path.with_name(HUB_LOCK_FILE))
        try:
            _lock_at_once(lockfile)
        except OSError:
            os.close(lockfile)
            raise SettingsError([f"{self.path.parent}: another hub runs on this folder; stop it, or use another server.data_dir"]) from None
        self._hub_lockfile = lockfile

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on disk when the block has ended, undone when it raises. Raises StoreUnavailable."""
        with self.exclusive(), _told("written"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if is_io_error(error):
                    self.fatal()
                raise
            if self._wal_bytes() > WAL_BYTES:
                with suppress(sqlite3.Error):  # the transaction stands; the next one tries again
                    self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def read(self, sql: str, *values: Any) -> list[Any]:
        """The rows of one query, as of now. Raises StoreUnavailable."""
        with self._reading, _told("read"):
            return self._reader.execute(sql, values).fetchall()

    def search(self, sql: str, *values: Any) -> list[Any]:
        """As `read`, for queries that may take long: those who `read` meanwhile do not wait. Raises StoreUnavailable."""
        with self._searching, _told("read"):
            return self._searcher.execute(sql, values).fetchall()

    def changes(self) -> int:
        """A number that differs from the last one when anybody has committed since; costs microseconds. Raises StoreUnavailable."""
        return int(self.read("PRAGMA data_version")[0][0])

    def checkpoint(self) -> None:
        """Move everything into the database file and empty the WAL, so that overwritten rows are on disk no longer."""
        with self.exclusive(), _told("written"):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def rest(self, before: int) -> int:
        """Empty the WAL if nobody has committed since the call that gave `before`. Returns what to give to the next one. Raises
        StoreUnavailable."""
        now = self.changes()
        if now == before and self._wal_bytes():
            self.checkpoint()
        return self.changes()

    def close(self) -> None:
        """Close the database once nobody uses it; it cannot be used any more."""
        with self.exclusive(), self._reading, self._searching:  # SQLite may crash where a statement runs on what is closed
            self._connections.close()
        os.close(self._lockfile)
        if self._hub_lockfile is not None:
            os.close(self._hub_lockfile)

    def _wal_bytes(self) -> int:
        wal = self.path.with_name(f"{FILE}-wal")
        return wal.stat().st_size if wal.exists() else 0

    def _migrate(self, schema: Path) -> None:
        """Run the files of `schema` that this database has not seen, in the order of their names, each in its own transaction."""
        files = sorted(schema.glob("*.sql"))
        done = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
        if done > len(files):
            raise SettingsError([f"{self.path}: was written by a newer version of sensorium; upgrade, or use another server.data_dir"])
        for number, file in enumerate(files[done:], done + 1):
            script = f"BEGIN IMMEDIATE; {file.read_text('utf-8')}\n; PRAGMA user_version = {number}; COMMIT;"
            try:
                self._writer.executescript(script)
            except sqlite3.Error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


def is_io_error(error: BaseException | None) -> bool:
    """Whether the disk has failed: what the kernel has dropped then, only a new start can tell."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF == sqlite3.SQLITE_IOERR


def _private(path: Path) -> int:
    """The descriptor of a file that only its owner may read, made when missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # an altered row must not break the reading of others
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    return connection


@contextmanager
def _told(done: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the hub's database cannot be {done}: {error}", retry_after=5) from None
