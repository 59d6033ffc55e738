"""Finished calls: one row each, written behind the calls, in batches, and forgotten by age and number.

Adding a row only puts it into a queue of bounded length. Whatever is wrong with the database, the calls do not notice; a row that cannot
be kept is counted, and the count is written as soon as anything can be.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec

from sensorium.store.database import Database, StoreUnavailable
from sensorium.wire.usage import UNKNOWN, Usage

BATCH = 256  # rows of one transaction
MOST_WAITING = 10_000  # rows
GATHER_S, RETRY_S = 0.1, 5.0  # before a write, and after one that failed
DAY_S = 24 * 3600
log = logging.getLogger("sensorium.store")


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whom a call was for, as its caller says; None where it says nothing."""

    agent: str | None = None
    task: str | None = None
    lease: str | None = None
    command: str | None = None
    request: str | None = None
    fleet: str | None = None


NOBODY = Attribution()


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished call. `began` is in seconds since the epoch, `model` asked for is `asked`; None is unknown.

    `attempts` are the routes that did not answer, each with its provider, model, class, status (None: it was no HTTP answer), asked,
    message and retry_after_s.
    """

    id: str
    began: float
    caller: str
    door: str
    asked: str
    model: str | None
    provider: str | None
    modality: str
    status: int
    outcome: str
    stream: bool
    first_byte_s: float | None
    total_s: float
    bytes_in: int | None
    bytes_out: int
    usage: Usage = UNKNOWN
    attribution: Attribution = NOBODY
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def row(self) -> tuple[Any, ...]:
        """As COLUMNS name it."""
        return (*_plain(self), *self.usage.counts(), *_names(self.attribution), msgspec.json.encode(self.attempts).decode())

    def shown(self, number: int) -> dict[str, Any]:
        """As the doors tell it. Numbers grow in the order in which calls ended."""
        began = datetime.fromtimestamp(self.began, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        plain = {name: getattr(self, name) for name in _PLAIN}
        told = {"usage": asdict(self.usage), "attribution": asdict(self.attribution), "attempts": self.attempts}
        return {"object": "call", "number": number, **plain, "began": began, **told}


_PLAIN = [one.name for one in fields(Finished)][:-3]
_USAGE, _ATTRIBUTION = [one.name for one in fields(Usage)], [one.name for one in fields(Attribution)]
_plain, _names = attrgetter(*_PLAIN), attrgetter(*_ATTRIBUTION)
COLUMNS = (*_PLAIN, *_USAGE, *_ATTRIBUTION, "attempts")
_INSERT = f"INSERT INTO calls ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_SELECT = f"SELECT number, {', '.join(COLUMNS)} FROM calls"


class Calls:
    """The finished calls of one database, of which those of the last `keep_s` seconds are kept, at most `keep`. `now` is in seconds since
    the epoch. `add` is for the event loop's thread, everything else for any."""

    def __init__(self, database: Database, keep_s: float, keep: int, now: Callable[[], float] = time.time) -> None:
        self._database, self._keep_s, self._keep, self._now = database, keep_s, keep, now
        self._waiting: deque[Finished] = deque()
        self._writing, self._due = threading.Lock(), asyncio.Event()
        self._lost = self._lost_told = 0  # the first grows where calls end, the second where they are written

    def add(self, call: Finished) -> None:
        """Have a call written soon. Never waits and never fails: what has no room is counted as lost."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(call)
        else:
            self._lost += 1
        self._due.set()

    def lose(self) -> None:
        """Count a record that could not even be made."""
        self._lost += 1
        self._due.set()

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return len(self._waiting)

    def lost(self) -> int:
        """Records that were lost since the database was made. Raises StoreUnavailable."""
        return int(self._database.search("SELECT count FROM calls_lost")[0][0]) + self._lost - self._lost_told

    def flush(self) -> None:
        """Write everything that waits. Raises StoreUnavailable, and then keeps it."""
        with self._writing:
            while self._waiting or self._lost > self._lost_told:
                self._write()

    async def keep_writing(self) -> None:
        """Write what was added, off the event loop, until cancelled. A database that cannot be written is logged, and tried again."""
        failing = False
        while True:
            await self._due.wait()
            await asyncio.sleep(RETRY_S if failing else GATHER_S)
            self._due.clear()
            try:
                await asyncio.to_thread(self.flush)
            except StoreUnavailable as error:
                if not failing:
                    log.warning("finished calls are not written yet, %d wait: %s", self.waiting, error.message)
                failing = True
                self._due.set()
            else:
                failing = False

    def close(self) -> None:
        """Write what is left; what cannot be is lost, and logged as such."""
        try:
            self.flush()
        except StoreUnavailable as error:
            log.warning("the records of %d finished calls are lost: %s", self.waiting + self._lost - self._lost_told, error.message)

    def latest(self, limit: int, before: int | None = None, **wanted: str | None) -> list[dict[str, Any]]:
        """The last calls, newest first, as `shown`: those with a lower number than `before`, of this `caller`, with this `outcome`.

        Raises StoreUnavailable.
        """
        given = {f"{name} = ?": value for name, value in wanted.items() if name in ("caller", "outcome") and value is not None}
        where = {"number < ?": before, **given} if before is not None else given
        condition = f" WHERE {' AND '.join(where)}" if where else ""
        rows = self._database.search(f"{_SELECT}{condition} ORDER BY number DESC LIMIT ?", *where.values(), limit)
        return [_read(row).shown(row[0]) for row in rows]

    def named(self, id: str, *, caller: str | None = None) -> tuple[dict[str, Any] | None, int]:
        """The newest call of this id, None when there is none, and how many there are, since callers may repeat their ids.

        Only of `caller`, if one is given. Raises StoreUnavailable.
        """
        only, given = ("id = ?", [id]) if caller is None else ("id = ? AND caller = ?", [id, caller])
        rows = self._database.search(f"{_SELECT} WHERE {only} ORDER BY number DESC LIMIT 1", *given)
        if not rows:
            return None, 0
        return _read(rows[0]).shown(rows[0][0]), int(self._database.search(f"SELECT count(*) FROM calls WHERE {only}", *given)[0][0])

    def _write(self) -> None:
        batch = [self._waiting[place] for place in range(min(BATCH, len(self._waiting)))]
        lost, unusable = self._lost - self._lost_told, 0
        with self._database.write() as db:
            for call in batch:
                unusable += not _inserted(db, call)
            if lost + unusable:
                db.execute("UPDATE calls_lost SET count = count + ?", (lost + unusable,))
            self._forget(db)
        for _ in batch:
            self._waiting.popleft()
        self._lost_told += lost
        if lost + unusable:
            log.warning("the records of %d finished calls were lost", lost + unusable)

    def _forget(self, db: sqlite3.Connection) -> None:
        """Delete rows that are too old or too many: at most twice as many as a batch brings, so that no write takes long."""
        for condition, limit in (
            ("began < ?", self._now() - self._keep_s),
            ("number <= (SELECT max(number) FROM calls) - ?", self._keep),
        ):
            db.execute(f"DELETE FROM calls WHERE number IN (SELECT number FROM calls WHERE {condition} LIMIT ?)", (limit, 2 * BATCH))


def _inserted(db: sqlite3.Connection, call: Finished) -> bool:
    """Whether the row was taken. One that the table refuses must not hold up the others; a database in trouble raises."""
    try:
        db.execute(_INSERT, call.row())
    except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError, UnicodeError):
        return False
    return True


def _read(row: tuple[Any, ...]) -> Finished:
    told: Mapping[str, Any] = dict(zip(COLUMNS, row[1:], strict=True))
    plain = {name: told[name] for name in _PLAIN} | {"stream": bool(told["stream"])}
    usage, attribution = Usage(*(told[name] for name in _USAGE)), Attribution(*(told[name] for name in _ATTRIBUTION))
    return Finished(**plain, usage=usage, attribution=attribution, attempts=msgspec.json.decode(told["attempts"]))
