"""Rows of the queue's table as requests, and the few statements that several of its verbs are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sensorium.jobs import outbox
from sensorium.jobs.endings import CANCELLED, DISCONNECTED
from sensorium.jobs.logs import Line
from sensorium.jobs.request import Asked, KeyReused, Made, Request, Rules, State, UnknownRequest
from sensorium.store.database import Connection, Cursor
from sensorium.store.files import disown

INLINE = 64 * 1024  # bytes; a longer input or output is a file
KEPT_S, UNKEPT_S = 30 * 86_400.0, 86_400.0  # how long payloads stay by default, and at most that of a request that is not to be kept
COLUMNS = (
    "seq, id, work, app, path, lane, caller, prio, vtag, call, rules, state, attempt, runs, deaths, upstream, told, status, webhook_url,"
    " ver, created_at, claimed_at, finished_at, start_deadline, cancel_at, payload_gone"
)
ORDER = "ORDER BY prio, vtag, seq"
_decode = msgspec.json.decode
_rules = msgspec.json.Decoder(Rules)


def over(db: Connection, id: str, state: State, made: Made, now: float, kept_s: float = KEPT_S) -> Request:
    """End a request, whatever it is doing, with its notification. The input of one that is not to be kept is erased."""
    output = made.body if len(made.body) <= INLINE else None
    unkept = "json_extract(rules, '$.kept') IS 0"
    sql = (
        "UPDATE requests SET state = ?1, told = ?2, status = ?3, output = ?4, finished_at = ?5, upstream = NULL, ver = ver + 1,"
        f" payload_expires_at = ?5 + iif({unkept}, min(?6, ?7), ?6), input = iif({unkept}, NULL, input) WHERE id = ?8 RETURNING {COLUMNS}"
    )
    ended = one(db.execute(sql, (state, as_json(made.told), made.status, output, now, kept_s, UNKEPT_S, id)))
    if ended.webhook_url is not None:
        outbox.add(db, ended.id, ended.caller, ended.webhook_url, now)
    return ended


def runs(db: Connection, running: Request) -> bool:
    """Whether this run of a request is the one under way."""
    sql = "SELECT 1 FROM requests WHERE id = ? AND attempt = ? AND state = 1"
    return first(db.execute(sql, (running.id, running.attempt))) is not None


def ended(db: Connection, running: Request, now: float, outcome: str) -> None:
    """A run has ended so."""
    row = (running.id, running.attempt, running.claimed_at or now, now, outcome)
    db.execute("INSERT OR REPLACE INTO attempts (request, attempt, began, ended, outcome) VALUES (?, ?, ?, ?, ?)", row)


def write_lines(db: Connection, id: str, lines: Iterable[Line]) -> None:
    """Add lines, each once."""
    sql = "INSERT OR IGNORE INTO request_logs (request, attempt, number, at, level, message) VALUES (?, ?, ?, ?, ?, ?)"
    db.executemany(sql, [(id, line.attempt, line.number, line.at, line.level, line.message) for line in lines])


def forget(db: Connection, ids: Iterable[str]) -> None:
    """Erase requests, with everything that belongs to them."""
    gone = list(ids)
    for id in gone:
        for table, column in (("requests", "id"), ("request_logs", "request"), ("attempts", "request")):
            db.execute(f"DELETE FROM {table} WHERE {column} = ?", (id,))
    outbox.forget(db, gone)


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


def recovered(db: Connection, lost: Request, made: Made | None, most_runs: int, now: float, kept_s: float) -> Request:
    """What becomes of a request that nobody runs although its row says so. `made` is what its run had spooled."""
    ended(db, lost, now, "lost" if made is None else "spooled")
    if made is not None:
        return over(db, lost.id, State.SUCCEEDED if made.status == 200 else State.FAILED, made, now, kept_s)
    disown(db, lost.caller, lost.id)  # what the lost run had stored belongs to no result
    if lost.cancel_at is not None:
        return over(db, lost.id, State.CANCELLED, CANCELLED, now, kept_s)
    if lost.runs >= most_runs:
        return over(db, lost.id, State.FAILED, DISCONNECTED, now, kept_s)
    return one(db.execute(f"UPDATE requests SET state = 0, ver = ver + 1 WHERE id = ? RETURNING {COLUMNS}", (lost.id,)))


def heads(db: Connection, lane: str, most: int, left: dict[str, int]) -> list[int]:
    """The first that wait in a lane. Where some callers may run only so many more (`left`, which is counted down), the heads of all callers
    are compared: what waits of a caller that may not is never scanned."""
    if not left:
        sql = f"SELECT seq FROM requests WHERE lane = ? AND state = 0 {ORDER} LIMIT ?"
        return [seq for (seq,) in db.execute(sql, (lane, most)).fetchall()]
    heads, caller = list[tuple[int, float, int, str]](), ""
    while True:
        caller = db.execute("SELECT min(caller) FROM requests WHERE lane = ? AND state = 0 AND caller > ?", (lane, caller)).fetchone()[0]
        if caller is None:
            break
        sql = f"SELECT prio, vtag, seq FROM requests WHERE lane = ? AND caller = ? AND state = 0 {ORDER} LIMIT ?"
        heads += [(*row, caller) for row in db.execute(sql, (lane, caller, min(most, left.get(caller, most)))).fetchall()]
    chosen = sorted(heads)[:most]
    for *_, caller in chosen:
        if caller in left:
            left[caller] -= 1
    return [seq for _, _, seq, _ in chosen]


def earlier(db: Connection, asked: Asked, since: float, hashed: bytes | None) -> Request | None:
    """The request that its idempotency key has made since then. Raises KeyReused when that had another body."""
    named = (asked.caller, asked.app, asked.idempotency_key)
    where = "WHERE caller = ? AND app = ? AND idem_key = ?"
    db.execute(f"UPDATE requests SET idem_key = NULL {where} AND created_at <= ?", (*named, since))
    row = first(db.execute(f"SELECT {COLUMNS}, body_sha256 FROM requests {where}", named))
    if row is None:
        return None
    if row[-1] != hashed:
        raise KeyReused("this Idempotency-Key came with another body before; use a new key for a new request", param="Idempotency-Key")
    return request(row[:-1])
