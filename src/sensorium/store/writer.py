"""Group commit: one thread takes every change that waits, makes them in one transaction, and answers them all when that is on disk.

A change that fails is undone alone (a savepoint each), its neighbours stand. No timer waits to fill a batch: while one is being synced, the
next one gathers (jobs.md, section 3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sensorium.store.database import Database, StoreUnavailable, is_io_error

log = logging.getLogger("sensorium.store")
T = TypeVar("T")
Change = Callable[[sqlite3.Connection], Any]
MOST = 256  # changes of one transaction
IO_ERROR_EXIT = 74  # EX_IOERR


def end_process() -> None:
    """After a failed sync the kernel may have dropped what was written: only a new start knows what is on disk."""
    os._exit(IO_ERROR_EXIT)


class Writer:
    """Makes changes to a database from asyncio. `close` when the hub stops; what was asked for by then is still made.

    `fatal` is called when the disk fails under a commit.
    """

    def __init__(self, database: Database, fatal: Callable[[], None] = end_process) -> None:
        self.database, self._fatal = database, fatal
        self._inbox: SimpleQueue[tuple[Change, asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def do(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """What `change` returns, once it is on disk. Raises what it raises, and StoreUnavailable; then nothing of it was kept.

        Whoever is cancelled while waiting has still made the change.
        """
        if self._closed:
            raise StoreUnavailable("the hub stops; nothing more is written", retry_after=5)
        made: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()
        self._inbox.put((change, made))
        return await made

    def close(self) -> None:
        """Make what was asked for, and stop. Nothing can be asked for any more."""
        self._closed = True
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        open_for_more = True
        while open_for_more:
            first = self._inbox.get()
            if first is None:
                return
            batch = [first]
            while len(batch) < MOST:
                try:
                    more = self._inbox.get_nowait()
                except Empty:
                    break
                if more is None:
                    open_for_more = False
                    break
                batch.append(more)
            self._commit(batch)

    def _commit(self, batch: list[tuple[Change, asyncio.Future[Any]]]) -> None:
        ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            with self.database.write() as db:
                for change, future in batch:
                    ended.append((future, *_made(db, change)))
        except StoreUnavailable as error:
            if is_io_error(error.__context__):
                self._fatal()
            ended = [(future, None, error) for _, future in batch]
        except Exception as error:  # outermost line of the thread: without it everybody would wait for ever
            log.exception("the writer failed: %s", type(error).__name__)
            unknown = StoreUnavailable(f"the hub's database cannot be written: {type(error).__name__}", retry_after=5)
            ended = [(future, None, unknown) for _, future in batch]
        try:
            batch[0][1].get_loop().call_soon_threadsafe(_tell, ended)
        except RuntimeError:
            """The loop is closed: nobody waits any more."""


def _made(db: sqlite3.Connection, change: Change) -> tuple[Any, BaseException | None]:
    db.execute("SAVEPOINT one")
    try:
        result = change(db)
    except sqlite3.Error as error:
        if is_io_error(error) or not db.in_transaction:
            raise
        refused: BaseException = StoreUnavailable(f"the hub's database cannot be written: {error}", retry_after=5)
        db.execute("ROLLBACK TO one")
    except Exception as error:  # outermost line of this change: its caller is told
        refused = error
        db.execute("ROLLBACK TO one")
    else:
        db.execute("RELEASE one")
        return result, None
    db.execute("RELEASE one")
    return None, refused


def _tell(ended: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, result, error in ended:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
