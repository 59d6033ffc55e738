"""Group commit: what stands, what is undone, and who is told, when a change or a commit fails."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium.store.database import Connection, Database, StoreUnavailable
from sensorium.store.writer import Writer

SCHEMA = "CREATE TABLE some (value INTEGER NOT NULL UNIQUE);"


@contextmanager
def opened(folder: Path) -> Iterator[Database]:
    (folder / "schema").mkdir(exist_ok=True)
    (folder / "schema" / "0001_some.sql").write_text(SCHEMA)
    with closing(Database(folder, folder / "schema")) as database:
        yield database


def put(value: int) -> Callable[[Connection], int]:
    def change(db: Connection) -> int:
        db.execute("INSERT INTO some VALUES (?)", (value,))
        return value

    return change


def values(folder: Path) -> list[int]:
    with opened(folder) as database:
        return [value for (value,) in database.read("SELECT value FROM some ORDER BY value")]


class Failing:
    """The writing connection, of which some statements fail. `held` keeps the first BEGIN until a batch has gathered."""

    def __init__(self, connection: Any, statement: str, error: Exception) -> None:
        self._connection, self._statement, self.error = connection, statement, error
        self.failures, self.commits, self.held = 1, 0, threading.Event()

    def execute(self, sql: str, given: Any = ()) -> Any:
        if sql.startswith("BEGIN"):
            self.held.wait(10)
        self.commits += sql == "COMMIT"
        if sql == self._statement and self.failures:
            self.failures -= 1
            raise self.error
        return self._connection.execute(sql, given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def io_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR | 4 << 8  # SQLITE_IOERR_FSYNC
    return error


def beside(
    folder: Path, does: Callable[[Writer, Failing], Awaitable[None]], statement: str = "", error: Exception | None = None
) -> list[str]:
    """Do something with a writer; how often it was `fatal`."""
    fatal = list[str]()

    async def run() -> None:
        with opened(folder) as database:
            failing = Failing(database._writer, statement, error or sqlite3.OperationalError("no"))
            database._writer = failing  # type: ignore[assignment]
            writer = Writer(database, lambda: fatal.append("end"))
            try:
                async with asyncio.timeout(20):
                    await does(writer, failing)
            finally:
                failing.held.set()
                writer.close()

    asyncio.run(run())
    return fatal


async def gathered(writer: Writer, failing: Failing, *changes: Callable[[Connection], Any]) -> list[Any]:
    """What comes of changes that are all asked for before the first is made."""
    tasks = [asyncio.create_task(writer.do(change)) for change in changes]
    await asyncio.sleep(0)
    failing.held.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_batch_is_one_commit(tmp_path: Path) -> None:
    async def does(writer: Writer, failing: Failing) -> None:
        assert await gathered(writer, failing, *map(put, range(100))) == list(range(100))
        assert failing.commits <= 2  # the first may have been taken before the others came

    assert beside(tmp_path, does) == []
    assert values(tmp_path) == list(range(100))


def test_more_than_a_batch_is_made_in_order(tmp_path: Path) -> None:
    async def does(writer: Writer, failing: Failing) -> None:
        assert await gathered(writer, failing, *map(put, range(700))) == list(range(700))
        assert failing.commits >= 3

    beside(tmp_path, does)
    assert values(tmp_path) == list(range(700))


def test_a_change_that_fails_is_undone_alone(tmp_path: Path) -> None:
    def half(db: Connection) -> None:
        db.execute("INSERT INTO some VALUES (77)")
        raise ValueError("no")

    def twice(db: Connection) -> None:
        db.execute("INSERT INTO some VALUES (88)")
        db.execute("INSERT INTO some VALUES (1)")

    async def does(writer: Writer, failing: Failing) -> None:
        one, failed, refused, two = await gathered(writer, failing, put(1), half, twice, put(2))
        assert (one, two, str(failed)) == (1, 2, "no")
        assert isinstance(refused, StoreUnavailable) and "UNIQUE" in refused.message

    assert beside(tmp_path, does) == []
    assert values(tmp_path) == [1, 2]


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "COMMIT", "SAVEPOINT one", "RELEASE one"])
@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(9, "Bad file descriptor")])
def test_a_commit_that_fails_keeps_nothing_and_tells_everybody(tmp_path: Path, statement: str, error: Exception) -> None:
    async def does(writer: Writer, failing: Failing) -> None:
        failing.failures = 0
        failing.held.set()
        await writer.do(put(0))
        failing.failures = 1
        failing.held.clear()
        came = await gathered(writer, failing, put(1), put(2), put(3))
        lost = [isinstance(one, StoreUnavailable) for one in came]
        stored = {value for (value,) in writer.database.read("SELECT value FROM some")}
        assert lost[0] and stored == {0, *(one for one in came if isinstance(one, int))}
        assert await writer.do(put(9)) == 9  # the next transaction is another one

    assert beside(tmp_path, does, statement, error) == []


@pytest.mark.parametrize("statement", ["COMMIT", "SAVEPOINT one"])
def test_a_disk_that_fails_is_the_end(tmp_path: Path, statement: str) -> None:
    async def does(writer: Writer, failing: Failing) -> None:
        failing.held.set()
        with pytest.raises(StoreUnavailable):
            await writer.do(put(1))

    assert beside(tmp_path, does, statement, io_error()) == ["end"]
    assert values(tmp_path) == []


def test_whoever_is_cancelled_has_made_the_change(tmp_path: Path) -> None:
    async def does(writer: Writer, failing: Failing) -> None:
        waiting = asyncio.create_task(writer.do(put(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        failing.held.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await writer.do(put(2)) == 2

    beside(tmp_path, does)
    assert values(tmp_path) == [1, 2]


def test_what_was_asked_for_is_made_before_it_closes_and_nothing_after(tmp_path: Path) -> None:
    async def does(writer: Writer, failing: Failing) -> None:
        tasks = [asyncio.create_task(writer.do(put(number))) for number in range(300)]
        await asyncio.sleep(0)
        failing.held.set()
        writer.close()
        assert [value for (value,) in writer.database.read("SELECT count(*) FROM some")] == [300]
        assert await asyncio.gather(*tasks) == list(range(300))
        with pytest.raises(StoreUnavailable, match="stops"):
            await writer.do(put(300))
        writer.close()

    beside(tmp_path, does)
    assert values(tmp_path) == list(range(300))


def test_a_loop_that_is_over_stops_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        failing = Failing(database._writer, "", ValueError())
        database._writer = failing  # type: ignore[assignment]
        writer = Writer(database)

        waiting = set[asyncio.Task[int]]()

        async def leaves() -> None:
            waiting.add(asyncio.create_task(writer.do(put(1))))
            await asyncio.sleep(0)

        asyncio.run(leaves())
        failing.held.set()
        writer.close()
    assert values(tmp_path) == [1]
