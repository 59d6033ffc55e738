"""The outbox: notifications of ended requests, their tries, paused endpoints, and the ids of the keys they are signed with.

All SQL of them is here. A notification is written in the transaction that ends its request, so there is never one without the other.
Whoever dies between sending and recording sends again: at least once, always under the same `webhook_id`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from sensorium.jobs import webhook_tries
from sensorium.store.database import Connection, Database

BATCH: Final = 500  # rows that one transaction deletes
_COLUMNS = "seq, request_id, caller, url, place, webhook_id, state, round, tries, created_at, asked_at, due_at, ended_at"
_DELIVERY = "at, address, status, ms, reply, error"


class State(IntEnum):
    """Where a notification stands. Asked for again, it waits again."""

    WAITING, DELIVERED, GIVEN_UP = range(3)


@dataclass(frozen=True, slots=True)
class Notification:
    """One row: that `caller` be told at `url` of the end of its request. `tries` are those of this `round`; times are seconds since the
    epoch."""

    seq: int
    request_id: str
    caller: str
    url: str
    place: str
    webhook_id: str
    state: State
    round: int
    tries: int
    created_at: float
    asked_at: float
    due_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try. `address` is the checked one that was called, `reply` the beginning of the answer; None: it did not come so far."""

    at: float
    address: str | None
    status: int | None
    ms: float
    reply: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key. It is used from `first_use_at` until `last_use_at`, None: until there is another."""

    kid: str
    created_at: float
    first_use_at: float
    last_use_at: float | None


def add(db: Connection, request_id: str, caller: str, url: str, now: float) -> None:
    """Have `caller` told of a request's end, as part of the transaction that ends it.

    A request that was run again after its end ends a second time: that is told under an id of its own, and the first end no more.
    """
    db.execute(
        "INSERT INTO outbox (request_id, caller, url, place, webhook_id, created_at, asked_at, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (request_id) DO UPDATE SET caller = excluded.caller, url = excluded.url, place = excluded.place,"
        " webhook_id = excluded.webhook_id, state = 0, round = round + 1, tries = 0, asked_at = excluded.asked_at,"
        " due_at = excluded.due_at, ended_at = NULL",
        (request_id, caller, url, place(caller, url), f"msg_{secrets.token_hex(16)}", now, now, now),
    )


def forget(db: Connection, request_ids: Collection[str]) -> None:
    """Erase the notifications of these requests and the record of their deliveries."""
    for id in request_ids:
        db.execute("DELETE FROM outbox WHERE request_id = ?", (id,))


def place(caller: str, url: str) -> str:
    """What is held back together: a caller's URL, whatever follows its `?`."""
    return f"{caller}\n{url.partition('#')[0].partition('?')[0]}"


class Outbox:
    """The notifications of one database. Methods block on the disk; all raise StoreUnavailable."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database, self._now = database, now

    def waiting(self) -> list[tuple[str, float]]:
        """Every place that is not paused where a notification waits, and since or until when the first one of it does."""
        # One step through the index per place, however many rows wait at one that is down.
        return self._database.read(
            "WITH RECURSIVE places (place) AS ("
            " SELECT min(place) FROM outbox WHERE state = 0"
            " UNION ALL SELECT (SELECT min(place) FROM outbox WHERE state = 0 AND place > places.place) FROM places"
            " WHERE places.place IS NOT NULL)"
            " SELECT place, (SELECT min(due_at) FROM outbox WHERE state = 0 AND place = places.place) AS first FROM places"
            " WHERE place IS NOT NULL AND place NOT IN (SELECT place FROM webhook_pauses) ORDER BY first"
        )

    def standing(self) -> tuple[int, int]:
        """How many notifications wait, and how many endpoints are paused."""
        counts = ("(SELECT count(*) FROM outbox WHERE state = 0)", "(SELECT count(*) FROM webhook_pauses)")
        waiting, paused = self._database.read(f"SELECT {', '.join(counts)}")[0]
        return int(waiting), int(paused)

    def first(self, places: Collection[str], most: int) -> dict[str, list[Notification]]:
        """The `most` notifications of each place that are due first, or next."""
        sql = f"SELECT {_COLUMNS} FROM outbox WHERE state = 0 AND place = ? ORDER BY due_at LIMIT ?"
        return {place: [_notification(row) for row in self._database.read(sql, place, most)] for place in places}

    def delivered(self, tried: Notification, delivery: Delivery) -> None:
        """It was taken."""
        self._ended(tried, delivery, State.DELIVERED)

    def failed(self, tried: Notification, delivery: Delivery, due_at: float | None, pause: bool = False) -> None:
        """It was not taken: it is due again at `due_at`, None: it is given up. `pause` holds back everything else for its place."""
        self._ended(tried, delivery, State.GIVEN_UP if due_at is None else State.WAITING, due_at, pause)

    def _ended(self, tried: Notification, delivery: Delivery, state: State, due_at: float | None = None, pause: bool = False) -> None:
        now = self._now()
        row = (tried.seq, delivery.at, delivery.address, delivery.status, delivery.ms, delivery.reply, delivery.error)
        with self._database.write() as db:
            if not db.execute("SELECT 1 FROM outbox WHERE seq = ? AND request_id = ?", (tried.seq, tried.request_id)).fetchall():
                return  # its request was erased meanwhile
            db.execute(f"INSERT INTO deliveries (seq, {_DELIVERY}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            db.execute(
                "UPDATE outbox SET state = ?, tries = tries + 1, due_at = coalesce(?, due_at), ended_at = ?"
                " WHERE seq = ? AND round = ? AND state = 0",
                (state, due_at, None if state is State.WAITING else now, tried.seq, tried.round),
            )
            if pause:
                db.execute("INSERT INTO webhook_pauses (place, since) VALUES (?, ?) ON CONFLICT (place) DO NOTHING", (tried.place, now))

    def again(self, request_id: str) -> bool:
        """Begin a new round for the notification of a request, at once, and end the pause of its place. False: there is none."""
        now = self._now()
        with self._database.write() as db:
            rows = db.execute(
                "UPDATE outbox SET state = 0, round = round + 1, tries = 0, asked_at = ?, due_at = ?, ended_at = NULL"
                " WHERE request_id = ? RETURNING place",
                (now, now, request_id),
            ).fetchall()
            db.executemany("DELETE FROM webhook_pauses WHERE place = ?", rows)
        return bool(rows)

    def log_of(self, request_id: str) -> tuple[Notification, list[Delivery]] | None:
        """The notification of a request and its tries, oldest first."""
        rows = self._database.read(f"SELECT {_COLUMNS} FROM outbox WHERE request_id = ?", request_id)
        if not rows:
            return None
        tries = self._database.read(f"SELECT {_DELIVERY} FROM deliveries WHERE seq = ? ORDER BY number", rows[0][0])
        return _notification(rows[0]), [Delivery(*row) for row in tries]

    def paused_since(self, place: str) -> float | None:
        """When the place answered 410; None when it is not paused."""
        rows = self._database.read("SELECT since FROM webhook_pauses WHERE place = ?", place)
        return float(rows[0][0]) if rows else None

    def sweep(self, kept_s: float) -> int:
        """Forget up to BATCH notifications that ended so long ago; give up those that could not be sent for as long. How many they were."""
        now = self._now()
        with self._database.write() as db:
            late = db.execute(
                "UPDATE outbox SET state = 2, ended_at = ? WHERE seq IN"
                " (SELECT seq FROM outbox WHERE state = 0 AND asked_at < ? ORDER BY asked_at LIMIT ?)",
                (now, now - max(kept_s, webhook_tries.LONGEST_S), BATCH),
            ).rowcount
            old = db.execute(
                "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state > 0 AND ended_at < ? ORDER BY ended_at LIMIT ?)",
                (now - kept_s, BATCH),
            ).rowcount
        return int(late + old)

    def keys(self) -> list[Key]:
        """Every signing key that is kept, by its first use."""
        rows = self._database.read("SELECT kid, created_at, first_use_at, last_use_at FROM webhook_keys ORDER BY first_use_at, kid")
        return [Key(*row) for row in rows]

    def add_key(self, kid: str, first_use_at: float, known: int) -> None:
        """A new key that takes the place of all others at `first_use_at`, unless there are more than the `known` ones by now."""
        with self._database.write() as db:
            if db.execute("SELECT count(*) FROM webhook_keys").fetchall()[0][0] != known:
                return
            db.execute("UPDATE webhook_keys SET last_use_at = ? WHERE last_use_at IS NULL", (first_use_at,))
            db.execute("INSERT INTO webhook_keys (kid, created_at, first_use_at) VALUES (?, ?, ?)", (kid, self._now(), first_use_at))

    def forget_keys(self, kids: Collection[str]) -> None:
        """Forget keys that nobody needs any more."""
        with self._database.write() as db:
            db.executemany("DELETE FROM webhook_keys WHERE kid = ?", [(kid,) for kid in kids])


def _notification(row: Sequence[Any]) -> Notification:
    seq, request_id, caller, url, place, webhook_id, state, *rest = row
    return Notification(seq, request_id, caller, url, place, webhook_id, State(state), *rest)
