"""The queue's table: submit, claim, finish, give back, cancel, remove. All SQL of the queue is here; each verb is one transaction.

What was acknowledged is on disk. A request that a hub was running when it died is queued again by the next one (`recover`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from sensorium.errors import NotFound
from sensorium.store.database import Database

MOST_RUNS = 10
_COLUMNS = "seq, id, caller, call, state, attempt, told, created_at, claimed_at, finished_at"


class State(IntEnum):
    """Where a request stands. The last two are never left; a cancelled one is gone."""

    QUEUED, RUNNING, SUCCEEDED, FAILED = range(4)


class UnknownRequest(NotFound):
    """No request of this id is the caller's."""

    code = "unknown_request"


@dataclass(frozen=True, slots=True)
class Request:
    """One row. `call` is what was asked, without its body; `told` what came of it: headers of a result, members of an error.

    Times are in seconds since the epoch.
    """

    seq: int
    id: str
    caller: str
    call: dict[str, Any]
    state: State
    attempt: int
    told: dict[str, Any]
    created_at: float
    claimed_at: float | None
    finished_at: float | None

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        return self.state > State.RUNNING


class Requests:
    """The requests of one database. Methods block on the disk."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database, self._now = database, now

    def submit(self, caller: str, call: dict[str, Any], body: bytes) -> Request:
        """A new request, on disk when this returns."""
        now = self._now()
        row = (_new_id(now), caller, msgspec.json.encode(call).decode(), body, now)
        into = "INSERT INTO requests (id, caller, call, input, created_at) VALUES (?, ?, ?, ?, ?)"
        with self._database.write() as db:
            return _request(db.execute(f"{into} RETURNING {_COLUMNS}", row).fetchall()[0])

    def claim(self, most: int) -> list[tuple[Request, bytes]]:
        """The next requests, now running, each with its body."""
        with self._database.write() as db:
            rows = db.execute(
                "UPDATE requests SET state = 1, attempt = attempt + 1, claimed_at = ?"
                f" WHERE seq IN (SELECT seq FROM requests WHERE state = 0 ORDER BY seq LIMIT ?) RETURNING {_COLUMNS}, input",
                (self._now(), most),
            ).fetchall()
        return [(_request(row[:-1]), row[-1]) for row in sorted(rows)]

    def finish(self, running: Request, state: State, told: dict[str, Any]) -> bool:
        """End a run. False when the request was cancelled or given to another run meanwhile: what came of this one does not count."""
        with self._database.write() as db:
            done = db.execute(
                "UPDATE requests SET state = ?, told = ?, finished_at = ?, input = x'' WHERE id = ? AND attempt = ? AND state = 1",
                (state, msgspec.json.encode(told).decode(), self._now(), running.id, running.attempt),
            )
        return done.rowcount == 1

    def give_back(self, running: Request) -> None:
        """Queue a running request again, at its old place."""
        with self._database.write() as db:
            db.execute("UPDATE requests SET state = 0 WHERE id = ? AND attempt = ? AND state = 1", (running.id, running.attempt))

    def recover(self) -> None:
        """At start, when nothing runs: queue what a dead hub was running, and fail what has been run too often."""
        told = msgspec.json.encode(
            {"status": 500, "code": "runner_disconnected", "message": f"the hub ended {MOST_RUNS} times on it"}
        ).decode()
        with self._database.write() as db:
            db.execute(
                "UPDATE requests SET state = 3, told = ?, finished_at = ?, input = x'' WHERE state = 1 AND attempt >= ?",
                (told, self._now(), MOST_RUNS),
            )
            db.execute("UPDATE requests SET state = 0 WHERE state = 1")

    def remove(self, caller: str, id: str) -> Request:
        """Forget a request; one that waits or runs is cancelled by that. Raises UnknownRequest."""
        found = self.of(caller, id)
        with self._database.write() as db:
            db.execute("DELETE FROM requests WHERE id = ?", (found.id,))
        return found

    def expired(self, kept_s: float) -> list[Request]:
        """Forget what ended so long ago."""
        with self._database.write() as db:
            rows = db.execute(f"DELETE FROM requests WHERE state > 1 AND finished_at < ? RETURNING {_COLUMNS}", (self._now() - kept_s,))
            return [_request(row) for row in rows.fetchall()]

    def of(self, caller: str, id: str) -> Request:
        """The caller's request. Raises UnknownRequest, also for somebody else's."""
        rows = self._database.read(f"SELECT {_COLUMNS} FROM requests WHERE id = ? AND caller = ?", id, caller)
        if not rows:
            raise UnknownRequest(f"no request {id[:80]} of this caller is known", hint="results are kept for jobs.keep_days")
        return _request(rows[0])

    def listed(self, caller: str, limit: int, after: str | None = None, newest_first: bool = True) -> list[Request]:
        """The caller's requests in the order of their submission, from beyond `after`. Raises UnknownRequest for an unknown `after`."""
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        bound = self.of(caller, after).seq if after is not None else (2**62 if newest_first else 0)
        sql = f"SELECT {_COLUMNS} FROM requests WHERE caller = ? AND seq {beyond} ? ORDER BY seq {order} LIMIT ?"
        return [_request(row) for row in self._database.read(sql, caller, bound, limit)]

    def ids(self) -> set[str]:
        """Every request that is known."""
        return {row[0] for row in self._database.read("SELECT id FROM requests")}

    def waiting(self) -> int:
        """How many requests wait or run."""
        return sum(self.standing())

    def standing(self) -> tuple[int, int]:
        """How many requests wait, and how many run."""
        counts = (f"(SELECT count(*) FROM requests WHERE state = {state:d})" for state in (State.QUEUED, State.RUNNING))
        queued, running = self._database.read(f"SELECT {', '.join(counts)}")[0]
        return int(queued), int(running)


def _request(row: Any) -> Request:
    seq, id, caller, call, state, attempt, told, *times = row
    return Request(seq, id, caller, msgspec.json.decode(call), State(state), attempt, msgspec.json.decode(told), *times)


def _new_id(now: float) -> str:
    """A UUID of version 7 (RFC 9562), without dashes: ids sort by their time, to the millisecond."""
    value = int(now * 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | int.from_bytes(os.urandom(8)) >> 2
    return f"{value:032x}"
