"""Rows of the queue's table as requests, and the few statements that several of its verbs are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sensorium.jobs import outbox
from sensorium.jobs.logs import Line
from sensorium.jobs.request import Made, Request, Rules, State, UnknownRequest
from sensorium.store.database import Connection, Cursor

INLINE = 64 * 1024  # bytes; a longer input or output is a file
COLUMNS = (
    "seq, id, work, app, path, lane, caller, prio, vtag, call, rules, state, attempt, runs, deaths, upstream, told, status, webhook_url,"
    " ver, created_at, claimed_at, finished_at, start_deadline, cancel_at, payload_gone"
)
_decode = msgspec.json.decode
_rules = msgspec.json.Decoder(Rules)


def over(db: Connection, id: str, state: State, made: Made, now: float, kept_s: float = 30 * 86_400.0) -> Request:
    """End a request, whatever it is doing."""
    output = made.body if len(made.body) <= INLINE else None
    sql = (
        "UPDATE requests SET state = ?, told = ?, status = ?, output = ?, finished_at = ?, payload_expires_at = ?, upstream = NULL,"
        f" ver = ver + 1 WHERE id = ? RETURNING {COLUMNS}"
    )
    return notified(db, one(db.execute(sql, (state, as_json(made.told), made.status, output, now, now + kept_s, id))), now)


def notified(db: Connection, over: Request, now: float) -> Request:
    """The request, which has just ended, with its notification written beside it."""
    if over.webhook_url is not None:
        outbox.add(db, over.id, over.caller, over.webhook_url, now)
    return over


def ended(db: Connection, running: Request, now: float, outcome: str) -> None:
    """A run has ended so."""
    row = (running.id, running.attempt, running.claimed_at or now, now, outcome)
    db.execute("INSERT OR REPLACE INTO attempts (request, attempt, began, ended, outcome) VALUES (?, ?, ?, ?, ?)", row)


def write_lines(db: Connection, id: str, lines: Iterable[Line]) -> None:
    """Add lines, each once."""
    sql = "INSERT OR IGNORE INTO request_logs (request, attempt, number, at, level, message) VALUES (?, ?, ?, ?, ?, ?)"
    db.executemany(sql, [(id, line.attempt, line.number, line.at, line.level, line.message) for line in lines])


def known(cursor: Iterable[Any], caller: str | None, id: str) -> Request:
    """The row of the caller's request (None: of anybody's). Raises UnknownRequest."""
    found = [request(row) for row in cursor]
    if not found or caller not in (None, found[0].caller):
        raise UnknownRequest("Request not found", hint=f"no request {id[:80]} of this caller is known; results are kept for jobs.keep_days")
    return found[0]


def first(cursor: Cursor) -> Any | None:
    """The first row, when there is one."""
    rows = cursor.fetchall()
    return rows[0] if rows else None


def one(cursor: Cursor) -> Request:
    """The one row, as a request."""
    return request(cursor.fetchall()[0])


def as_json(value: Any) -> str:
    """As it stands in a column."""
    return msgspec.json.encode(value).decode()


def request(row: Any) -> Request:
    """A row of COLUMNS."""
    (
        seq,
        id,
        work,
        app,
        path,
        lane,
        caller,
        prio,
        vtag,
        call,
        rules,
        state,
        attempt,
        runs,
        deaths,
        upstream,
        told,
        status,
        hook,
        ver,
        *times,
        gone,
    ) = row
    return Request(
        *(seq, id, work, app, path, lane, caller, prio, vtag, _decode(call), _rules.decode(rules), State(state), attempt, runs, deaths),
        *(_decode(upstream) if upstream else None, _decode(told), status, hook, ver, *times, bool(gone)),
    )
