"""The queue's table: submit, claim, finish, delay, cancel, recover, expire. Each verb is one change; its SQL is here and in `rows`.

What was acknowledged is on disk. Verbs about a running request name its attempt and have no effect when that is over.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sensorium import failpoints
from sensorium.jobs import rows
from sensorium.jobs.endings import CANCELLED, TIMED_OUT
from sensorium.jobs.logs import Line
from sensorium.jobs.request import Asked, Made, NotRepeatable, Request, State
from sensorium.jobs.rows import COLUMNS, INLINE, KEPT_S
from sensorium.store.database import Connection, Database
from sensorium.store.files import disown
from sensorium.store.writer import Writer

KEY_S = 86_400.0  # how long an idempotency key is remembered
BATCH = 500  # rows of one deletion or one look-up
# All that wait, through the indexes of both states: `state IN (0, 2)` would read every request there ever was.
WAITING = "(SELECT * FROM requests WHERE state = 0 UNION ALL SELECT * FROM requests WHERE state = 2)"
ROW_S = 90 * 86_400.0  # how long a row stays without its payload


class Requests:
    """The requests of one database. `now` is the time in seconds since the epoch, `holder` names this start of the hub."""

    def __init__(self, database: Database, writer: Writer, now: Callable[[], float] = time.time) -> None:
        self._database, self._writer, self.now = database, writer, now
        self.holder = secrets.token_hex(8)

    def close(self) -> None:
        """Write what was asked for by now; nothing more is."""
        self._writer.close()

    async def submit(self, id: str, asked: Asked, vtag: float, call: dict[str, Any]) -> tuple[Request, bool]:
        """A new request, or the one that its idempotency key has made before (then True). On disk when this returns.

        Raises KeyReused when the body was another one.
        """
        now, hashed = self.now(), _hash(asked)
        row = {
            **{name: getattr(asked, name) for name in ("work", "app", "path", "lane", "caller", "prio", "webhook_url")},
            "id": id,
            "vtag": vtag,
            "call": rows.as_json(call),
            "rules": rows.as_json(asked.rules),
            "created_at": now,
            "input": asked.body if len(asked.body) <= INLINE else None,
            "body_sha256": hashed,
            "idem_key": asked.idempotency_key,
            "start_deadline": None if asked.start_within_s is None else now + asked.start_within_s,
        }
        sql = f"INSERT INTO requests ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) RETURNING {COLUMNS}"

        def change(db: Connection) -> tuple[Request, bool]:
            earlier = rows.earlier(db, asked, now - KEY_S, hashed) if asked.idempotency_key else None
            if earlier:
                return earlier, True
            made = rows.one(db.execute(sql, tuple(row.values())))
            failpoints.reach("submit_uncommitted")
            return made, False

        return await self._writer.do(change)

    async def replayed(self, asked: Asked) -> Request | None:
        """The request that this submission's idempotency key has made before. Raises KeyReused."""
        since, hashed = self.now() - KEY_S, _hash(asked)
        return await self._writer.do(lambda db: rows.earlier(db, asked, since, hashed))

    async def claim(
        self, free: Sequence[tuple[str, int]], caps: Mapping[str, int] = MappingProxyType({}), most: int | None = None
    ) -> list[tuple[Request, bytes | None]]:
        """The next requests of some lanes, so many of each and `most` in all, now running, with their bodies (None: a file).

        `caps` says of some callers how many more of theirs may run.
        """
        now, slots = self.now(), 2**31 if most is None else most

        def change(db: Connection) -> list[tuple[Request, bytes | None]]:
            left, found = dict(caps), list[Any]()
            for lane, room in free:
                chosen = rows.heads(db, lane, min(room, slots - len(found)), left)
                sql = (
                    "UPDATE requests SET state = 1, attempt = attempt + 1, runs = runs + 1, holder = ?, claimed_at = ?, ver = ver + 1"
                    f" WHERE seq IN ({', '.join('?' * len(chosen))}) RETURNING {COLUMNS}, input"
                )
                found += db.execute(sql, (self.holder, now, *chosen)).fetchall() if chosen else []
            return sorted(((rows.request(row[:-1]), row[-1]) for row in found), key=lambda pair: (pair[0].prio, pair[0].vtag, pair[0].seq))

        return await self._writer.do(change)

    async def finish(
        self, running: Request, state: State, made: Made, lines: Sequence[Line] = (), kept_s: float = KEPT_S
    ) -> Request | None:
        """End a run and the request, with its last lines and its notification. None when the run was over already: it does not count."""
        now = self.now()

        def change(db: Connection) -> Request | None:
            if not rows.runs(db, running):
                return None
            rows.ended(db, running, now, state.name.lower())
            rows.write_lines(db, running.id, lines)
            over = rows.over(db, running.id, state, made, now, kept_s)
            failpoints.reach("finish_uncommitted")
            return over

        return await self._writer.do(change)

    async def delay(
        self,
        running: Request,
        until: float,
        outcome: str,
        lines: Sequence[Line] = (),
        kept_s: float = KEPT_S,
        *,
        run: int = 1,
        death: int = 0,
        told: Mapping[str, Any] = MappingProxyType({}),
    ) -> Request | None:
        """Let a run end, and the request wait until then; one that is to be cancelled is, instead. None when the run was over already.

        `run` 0 does not count it, `death` 1 counts it as a death of its worker, `told` is for the next run.
        """
        now, kept = self.now(), rows.as_json(dict(told))

        def change(db: Connection) -> Request | None:
            sql = (
                "UPDATE requests SET state = iif(?1 > ?2, 2, 0), not_before = ?1, runs = runs - 1 + ?3, deaths = deaths + ?4, told = ?7,"
                f" ver = ver + 1 WHERE id = ?5 AND attempt = ?6 AND state = 1 RETURNING {COLUMNS}"
            )
            row = rows.first(db.execute(sql, (until, now, run, death, running.id, running.attempt, kept)))
            if row is None:
                return None
            rows.ended(db, running, now, outcome)
            rows.write_lines(db, running.id, lines)
            waits = rows.request(row)
            return waits if waits.cancel_at is None else rows.over(db, running.id, State.CANCELLED, CANCELLED, now, kept_s)

        return await self._writer.do(change)

    async def keep(self, running: Request, upstream: dict[str, Any]) -> None:
        """Remember where a provider works on a run, so that another run can ask there. An empty one forgets it."""
        values = (rows.as_json(upstream) if upstream else None, running.id, running.attempt)
        await self._writer.do(lambda db: db.execute("UPDATE requests SET upstream = ? WHERE id = ? AND attempt = ? AND state = 1", values))

    async def cancel(self, caller: str | None, id: str, kept_s: float = KEPT_S) -> tuple[Request, bool]:
        """Cancel a request that waits, mark one that runs. True when it is or may yet be cancelled. Raises UnknownRequest."""
        now = self.now()

        def change(db: Connection) -> tuple[Request, bool]:
            found = rows.known(db.execute(f"SELECT {COLUMNS} FROM requests WHERE id = ?", (id,)), caller, id)
            if found.done:
                return found, False
            if found.state is State.RUNNING:
                sql = f"UPDATE requests SET cancel_at = coalesce(cancel_at, ?), ver = ver + 1 WHERE id = ? RETURNING {COLUMNS}"
                return rows.one(db.execute(sql, (now, id))), True
            return rows.over(db, id, State.CANCELLED, CANCELLED, now, kept_s), True

        return await self._writer.do(change)

    async def fail(self, ids: Sequence[str], made: Made, kept_s: float = KEPT_S) -> list[Request]:
        """End requests that wait."""
        now = self.now()

        def change(db: Connection) -> list[Request]:
            waiting = [id for id in ids if rows.first(db.execute("SELECT 1 FROM requests WHERE id = ? AND state IN (0, 2)", (id,)))]
            return [rows.over(db, id, State.FAILED, made, now, kept_s) for id in waiting]

        return await self._writer.do(change)

    async def again(self, caller: str | None, id: str) -> Request:
        """Queue an ended request that did not succeed once more, its runs forgotten. Raises UnknownRequest, NotRepeatable."""

        def change(db: Connection) -> Request:
            found = rows.known(db.execute(f"SELECT {COLUMNS} FROM requests WHERE id = ?", (id,)), caller, id)
            sql = (
                "UPDATE requests SET state = 0, runs = 0, deaths = 0, told = '{}', status = NULL, output = NULL, finished_at = NULL,"
                " cancel_at = NULL, start_deadline = NULL, payload_expires_at = NULL, ver = ver + 1"
                f" WHERE id = ? AND state IN (4, 5) AND payload_gone = 0 RETURNING {COLUMNS}"
            )
            row = rows.first(db.execute(sql, (id,))) if found.rules.kept else None
            if row is None:
                raise NotRepeatable(
                    f"request {id} is {found.state.name.lower()}; only a failed or cancelled one that still has its input is run again"
                )
            return rows.request(row)

        return await self._writer.do(change)

    async def due(self, low_max_wait_s: float | None, kept_s: float = KEPT_S) -> tuple[list[Request], list[Request]]:
        """The delayed whose time has come, now queued, with the low ones that count as normal now; and those whose start deadline has
        passed, now failed, a batch of them."""
        now = self.now()

        def change(db: Connection) -> tuple[list[Request], list[Request]]:
            late = db.execute("SELECT id FROM requests WHERE state IN (0, 2) AND start_deadline <= ? LIMIT ?", (now, BATCH)).fetchall()
            over = [rows.over(db, id, State.FAILED, TIMED_OUT, now, kept_s) for (id,) in late]
            sql = f"UPDATE requests SET state = 0, ver = ver + 1 WHERE state = 2 AND not_before <= ? RETURNING {COLUMNS}"
            ready = [rows.request(row) for row in db.execute(sql, (now,)).fetchall()]
            if low_max_wait_s is not None:
                sql = f"UPDATE requests SET prio = 0, ver = ver + 1 WHERE state = 0 AND prio > 0 AND created_at <= ? RETURNING {COLUMNS}"
                ready += [rows.request(row) for row in db.execute(sql, (now - low_max_wait_s,)).fetchall()]
            return ready, over

        return await self._writer.do(change)

    def anything_due(self, low_max_wait_s: float | None) -> bool:
        """Whether `due` would change anything; costs microseconds."""
        sql = (
            "SELECT EXISTS (SELECT 1 FROM requests WHERE state = 2 AND not_before <= ?1)"
            " OR EXISTS (SELECT 1 FROM requests WHERE state IN (0, 2) AND start_deadline <= ?1)"
            " OR EXISTS (SELECT 1 FROM requests WHERE state = 0 AND prio > 0 AND created_at <= ?1 - ?2)"
        )
        return bool(self._database.read(sql, self.now(), low_max_wait_s)[0][0])

    async def recover(
        self, spooled: Callable[[Request], Made | None], most_runs: int, kept_s: float, running: Collection[str]
    ) -> list[Request]:
        """What is marked as running and is not among those that do: finished from its spool, cancelled, failed, or queued again."""
        now = self.now()

        def change(db: Connection) -> list[Request]:
            found = [rows.request(row) for row in db.execute(f"SELECT {COLUMNS} FROM requests WHERE state = 1").fetchall()]
            return [rows.recovered(db, request, spooled(request), most_runs, now, kept_s) for request in found if request.id not in running]

        return await self._writer.do(change)

    async def write_lines(self, running: Request, lines: Sequence[Line]) -> None:
        """Add lines that a run has logged; none once it is over."""
        await self._writer.do(lambda db: rows.write_lines(db, running.id, lines) if rows.runs(db, running) else None)

    async def remove(self, caller: str | None, id: str) -> Request:
        """Forget a request, its payload, its lines and the files that it made. Raises UnknownRequest."""

        def change(db: Connection) -> Request:
            found = rows.known(db.execute(f"SELECT {COLUMNS} FROM requests WHERE id = ?", (id,)), caller, id)
            rows.forget(db, [id])
            disown(db, found.caller, id)
            return found

        return await self._writer.do(change)

    async def fetched(self, request: Request, until: float) -> None:
        """Let a payload that is not to be kept end by then, if it does not earlier."""
        sql = "UPDATE requests SET payload_expires_at = min(coalesce(payload_expires_at, ?1), ?1) WHERE id = ?2"
        await self._writer.do(lambda db: db.execute(sql, (until, request.id)))

    async def expire(self, log_s: float) -> tuple[list[str], bool]:
        """Erase what has been kept long enough, a batch of it: payloads, old rows, old lines. The ids of what is gone, and whether there
        may be more."""
        now = self.now()

        def change(db: Connection) -> tuple[list[str], bool]:
            sql = (
                "UPDATE requests SET payload_gone = 1, input = NULL, output = NULL, ver = ver + 1 WHERE seq IN (SELECT seq FROM requests"
                " WHERE state > 2 AND payload_gone = 0 AND payload_expires_at <= ? LIMIT ?) RETURNING id"
            )
            gone = [id for (id,) in db.execute(sql, (now, BATCH)).fetchall()]
            sql = "SELECT id FROM requests WHERE payload_gone = 1 AND finished_at <= ? LIMIT ?"
            old = [id for (id,) in db.execute(sql, (now - ROW_S, BATCH)).fetchall()]
            rows.forget(db, old)
            which = "(SELECT request, attempt, number FROM request_logs WHERE at <= ? LIMIT ?)"
            lines = db.execute(f"DELETE FROM request_logs WHERE (request, attempt, number) IN {which} RETURNING 1", (now - log_s, BATCH))
            return gone + old, BATCH in (len(gone), len(old), len(lines.fetchall()))

        return await self._writer.do(change)

    def of(self, caller: str | None, id: str) -> Request:
        """A request of the caller's (None: anybody's). Raises UnknownRequest, also for somebody else's."""
        return rows.known(self._database.read(f"SELECT {COLUMNS} FROM requests WHERE id = ?", id), caller, id)

    def listed(
        self,
        caller: str | None,
        limit: int,
        after: str | None = None,
        *,
        newest_first: bool = True,
        app: str | None = None,
        work: str | None = None,
        states: Collection[State] = (),
    ) -> list[Request]:
        """Requests in the order of their submission, from beyond `after`. Raises UnknownRequest for an unknown `after`."""
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        bound = self.of(caller, after).seq if after is not None else (2**62 if newest_first else 0)
        where, values = [f"seq {beyond} ?"], list[Any]([bound])
        for column, value in (("caller", caller), ("app", app), ("work", work)):
            where += [f"{column} = ?"] if value is not None else []
            values += [value] if value is not None else []
        where += [f"state IN ({', '.join(str(int(state)) for state in states)})"] if states else []
        sql = f"SELECT {COLUMNS} FROM requests WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"
        return [rows.request(row) for row in self._database.search(sql, *values, limit)]

    def input(self, id: str) -> bytes | None:
        """The body of a request where it is no file."""
        found = self._database.read("SELECT input FROM requests WHERE id = ?", id)
        return found[0][0] if found else None

    def output(self, id: str) -> bytes | None:
        """The result's body where it is no file."""
        found = self._database.read("SELECT output FROM requests WHERE id = ?", id)
        return found[0][0] if found else None

    def lines(self, id: str, attempt: int = 0, number: int = 0) -> list[Line]:
        """What a request has logged, beyond that line."""
        sql = "SELECT attempt, number, at, level, message FROM request_logs WHERE request = ? AND (attempt, number) > (?, ?)"
        sql += " ORDER BY attempt, number"
        return [Line(*row) for row in self._database.read(sql, id, attempt, number)]

    def attempts(self, id: str) -> list[tuple[int, float, float, str]]:
        """(attempt, began, ended, outcome) of every run that ended."""
        return [
            tuple(row)
            for row in self._database.read("SELECT attempt, began, ended, outcome FROM attempts WHERE request = ? ORDER BY ended", id)
        ]

    def keys(self) -> list[tuple[str, tuple[int, float, int]]]:
        """(lane, key of its order) of all that wait."""
        found = self._database.search(f"SELECT lane, prio, vtag, seq FROM {WAITING}")
        return [(lane, (prio, vtag, seq)) for lane, prio, vtag, seq in found]

    def kept(self, ids: Collection[str]) -> set[str]:
        """Those of these requests whose payload is kept; a batch of them is one look into the index of ids."""
        asked, found = list(ids), set[str]()
        for start in range(0, len(asked), BATCH):
            batch = asked[start : start + BATCH]
            sql = f"SELECT id FROM requests WHERE id IN ({', '.join('?' * len(batch))}) AND payload_gone = 0"
            found.update(id for (id,) in self._database.search(sql, *batch))
        return found

    def waiting(self) -> list[tuple[str, str, int, float, float]]:
        """(lane, caller, how many, their smallest and their largest tag) of all that wait, also those that are delayed."""
        sql = f"SELECT lane, caller, count(*), min(vtag), max(vtag) FROM {WAITING} GROUP BY lane, caller"
        return [tuple(row) for row in self._database.search(sql)]

    def unserved(self, lane: str, before: float) -> list[str]:
        """Those of a lane that have waited since then, a batch of them."""
        sql = "SELECT id FROM requests WHERE lane = ? AND state = 0 AND created_at <= ? LIMIT ?"
        return [row[0] for row in self._database.search(sql, lane, before, BATCH)]

    def standing(self) -> tuple[int, int]:
        """How many requests wait, and how many run."""
        counts = (f"(SELECT count(*) FROM requests WHERE state = {state})" for state in (0, 2, 1))  # an index each
        queued, delayed, running = self._database.read(f"SELECT {', '.join(counts)}")[0]
        return int(queued + delayed), int(running)


def _hash(asked: Asked) -> bytes | None:
    return hashlib.sha256(asked.body).digest() if asked.idempotency_key else None


def new_id(now: float) -> str:
    """A UUID of version 7 (RFC 9562): ids sort by their time, to the millisecond."""
    value = int(now * 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | int.from_bytes(os.urandom(8)) >> 2
    plain = f"{value:032x}"
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))
